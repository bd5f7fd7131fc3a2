"""https:// data: bounded, https only, and clear about what went wrong."""

from __future__ import annotations

import datetime
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from finetune_trainer.prepare.download import DownloadError, download

BODY = b'{"text": "a"}\n' * 10


class Handler(BaseHTTPRequestHandler):
    busy = 0

    def do_GET(self) -> None:
        match self.path:
            case "/data/train.jsonl":
                self._send(200, {"Content-Length": str(len(BODY))}, BODY)
            case "/endless.jsonl":
                self._send(200, {}, b"x" * 5000)
            case "/short.jsonl":
                self._send(200, {"Content-Length": "500"}, BODY)
            case "/moved.jsonl":
                self._send(302, {"Location": "/data/train.jsonl"}, b"")
            case "/plain.jsonl":
                self._send(302, {"Location": "http://127.0.0.1:1/train.jsonl"}, b"")
            case "/busy.jsonl" if Handler.busy > 0:
                Handler.busy -= 1
                self._send(503, {}, b"")
            case "/busy.jsonl":
                self._send(200, {}, BODY)
            case "/broken.jsonl":
                self._send(500, {}, b"")
            case _:
                self._send(404, {}, b"")

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["/data/train.jsonl", "/moved.jsonl"])
def test_a_file_is_fetched_under_its_own_name(server: str, tmp_path: Path, path: str) -> None:
    target = download(server + path, tmp_path, 10**6)
    assert target == tmp_path / Path(path).name
    assert target.read_bytes() == BODY


def test_a_busy_server_is_asked_again(server: str, tmp_path: Path) -> None:
    Handler.busy = 2
    assert download(f"{server}/busy.jsonl", tmp_path, 10**6, 0).read_bytes() == BODY


@pytest.mark.parametrize(
    ("path", "limit", "says"),
    [
        ("/data/train.jsonl", 100, "larger than the limit of 100 bytes"),
        ("/endless.jsonl", 4000, "larger than the limit of 4000 bytes"),
        ("/short.jsonl", 10**6, r"140 of 500 bytes \(tried 4 times\)"),
        ("/plain.jsonl", 10**6, "redirects to http://127.0.0.1:1/train.jsonl, which is not https"),
        ("/missing.jsonl", 10**6, "answers HTTP 404"),
        ("/broken.jsonl", 10**6, r"answers HTTP 500 .*\(tried 4 times\)"),
        ("/", 10**6, "names no file"),
    ],
)
def test_a_download_that_fails_says_why_and_leaves_nothing(
    server: str, tmp_path: Path, path: str, limit: int, says: str
) -> None:
    with pytest.raises(DownloadError, match=says):
        download(server + path, tmp_path / "out", limit, 0)
    assert not list(tmp_path.glob("out/*"))


def test_plain_http_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"http://localhost/a\.jsonl is not https"):
        download("http://localhost/a.jsonl", tmp_path, 10**6)


def test_a_certificate_nobody_vouches_for_is_refused(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(DownloadError, match="CERTIFICATE_VERIFY_FAILED"):
        download(f"{server}/data/train.jsonl", tmp_path, 10**6, 0)
