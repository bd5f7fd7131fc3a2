"""Pushing an image: to the registry of the local cluster, on loopback."""

from __future__ import annotations

import base64
import io
import json
import shutil
import socket
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from finetune_trainer.config import Destination, JobRef, OciPlace
from finetune_trainer.errors import PublishFailed, PublishRefused
from finetune_trainer.publishing import image as images
from finetune_trainer.publishing.destinations import push_all
from local_cluster.api import wait_for
from local_cluster.debian import debian_binary
from local_cluster.processes import ProcessTable, bound_to_us
from local_cluster.registry import DOCKER_REGISTRY, answers, write_config

JOB = JobRef(namespace="team", name="bot", uid="u")
USER, PASSWORD = "pusher", "secret"
BCRYPT = "$2b$05$F7Ky30vyicDZZDOqVhWqf.WeOlzMSC4o7IsJQMmerbzVJxYAMERHW"
"""Of that password."""


@contextmanager
def registry(folder: Path, **config: Any) -> Iterator[str]:
    """host:port of a registry with its storage in ``folder``."""
    if shutil.which("apt-get") is None:
        pytest.skip("no registry to push to: this host has no Debian packages")
    program = debian_binary(*DOCKER_REGISTRY)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    folder.mkdir()
    path = write_config(folder / "config.json", folder / "storage", address)
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    processes = ProcessTable(folder, folder)
    processes.start("registry", bound_to_us(program, "serve", path))
    try:
        wait_for("a registry", lambda: answers(address) or _asks(address), 20, "see its log")
        yield address
    finally:
        processes.stop("registry", grace=2)


def _asks(address: str) -> bool:
    try:
        return httpx2.get(f"http://{address}/v2/").status_code == 401
    except httpx2.TransportError:
        return False


@pytest.fixture
def output(tmp_path: Path) -> Path:
    merged = tmp_path / "output/merged"
    (merged / "original").mkdir(parents=True)
    (merged / "model.safetensors").write_bytes(bytes(range(256)) * 5000)  # more than one chunk
    (merged / "config.json").write_text("{}")
    (merged / "original/empty.txt").write_text("")
    return tmp_path / "output"


def push(output: Path, address: str, login: Path | None = None, **oci: Any) -> dict[str, str]:
    place = {"image": f"{address}/team/bot:v1", "plainHTTP": True, **oci}
    if login:
        place["loginPath"] = str(login)
    wish = Destination(
        name="reg", field="spec.output.destinations[0]", format="Merged",
        oci=OciPlace.model_validate(place),
    )  # fmt: skip
    (pushed,) = push_all((wish,), output, JOB, {"merged": "sha256:aa"}, pause_seconds=0)
    return pushed


def pulled(address: str, tag: str, auth: tuple[str, str] | None = None) -> tuple[str, Any, Any]:
    """Digest, manifest, and the files that its layers hold."""
    base = f"http://{address}/v2/team/bot"
    with httpx2.Client(auth=auth) as client:
        found = client.get(f"{base}/manifests/{tag}", headers={"Accept": images.MANIFEST_TYPE})
        assert found.status_code == 200, found.text
        manifest, files = found.json(), {}
        for layer in manifest["layers"]:
            content = client.get(f"{base}/blobs/{layer['digest']}").content
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                for member in archive.getmembers():
                    assert (member.uid, member.mtime, member.mode) == (0, 0, 0o444)
                    file = archive.extractfile(member)
                    files[member.name] = file.read() if file else b""
        config = client.get(f"{base}/blobs/{manifest['config']['digest']}").json()
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    return found.headers["Docker-Content-Digest"], manifest, files


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_registry_has_every_file_of_the_model(output: Path, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as address:
        pushed = push(output, address)
        digest, manifest, files = pulled(address, "v1")
        assert files == files_of(output / "merged")
        assert pushed == {"name": "reg", "uri": f"image://{address}/team/bot:v1", "digest": digest}
        assert manifest["annotations"]["dev.finetune.artifact-digest"] == "sha256:aa"
        assert push(output, address) == pushed, "the same again is the same image"
        (output / "merged/config.json").write_text('{"a": 1}')
        again = push(output, address)
        assert again["digest"] != pushed["digest"]
        assert pulled(address, digest)[2]["config.json"] == b"{}", "the old one is there by digest"
        assert pulled(address, "v1")[0] == again["digest"]


def test_a_registry_with_a_login_is_opened_by_the_mounted_secret(
    output: Path, tmp_path: Path
) -> None:
    users = tmp_path / "htpasswd"
    users.write_text(f"{USER}:{BCRYPT}\n")
    secret = tmp_path / ".dockerconfigjson"
    auth = {"htpasswd": {"realm": "r", "path": str(users)}}
    with registry(tmp_path / "registry", auth=auth) as address:
        with pytest.raises(PublishRefused, match="HTTP 401") as caught:
            push(output, address)
        assert caught.value.hint == "name a Secret with a login in oci.secretRef"
        for text, says in (
            ("no json", r"destinations\[0\]\.oci \(reg\): the Secret holds no login that can be"),
            (json.dumps({"auths": {"elsewhere.test": {}}}), f"has no login for {address}"),
        ):
            secret.write_text(text)
            with pytest.raises(PublishRefused, match=says):
                push(output, address, secret)
        wrong = base64.b64encode(f"{USER}:wrong".encode()).decode()
        secret.write_text(json.dumps({"auths": {address: {"auth": wrong}}}))
        with pytest.raises(PublishRefused, match="HTTP 401") as caught:
            push(output, address, secret)
        assert "must be allowed to push" in str(caught.value.hint)
        assert wrong not in str(caught.value)
        login = {"username": USER, "password": PASSWORD}
        secret.write_text(json.dumps({"auths": {address: login}}))
        push(output, address, secret)
        assert pulled(address, "v1", (USER, PASSWORD))[2] == files_of(output / "merged")


def test_a_registry_that_is_not_there_is_worth_another_attempt(output: Path) -> None:
    with pytest.raises(PublishFailed, match=r"127.0.0.1:9 cannot be reached \(tried 4 times\)"):
        push(output, "127.0.0.1:9")
    assert (output / "merged/config.json").exists()


class Proxy:
    """Stands before a registry: asks for a token, loses requests, and keeps the order of calls."""

    def __init__(self, behind: str) -> None:
        self.behind = behind
        self.realm = ""
        self.calls: list[str] = []
        self.fail: dict[str, int] = {}
        """Method → so many of its requests are answered with 503 first."""
        self.logins: list[str | None] = []


@contextmanager
def in_front(proxy: Proxy) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            given = self.headers.get("Authorization")
            if self.path.startswith("/token?"):
                proxy.logins.append(given)
                assert "scope=repository%3Ateam%2Fbot%3Apull%2Cpush" in self.path
                self.reply(200, {}, b'{"token": "once"}')
            elif proxy.realm and given != "Bearer once":
                asks = f'Bearer realm="{proxy.realm}/token",service="reg"'
                self.reply(401, {"WWW-Authenticate": asks}, b"")
            elif proxy.fail.get(self.command):
                proxy.fail[self.command] -= 1
                self.reply(503, {}, b"")
            else:
                proxy.calls.append(f"{self.command} {self.path.partition('?')[0]}")
                kind = self.headers.get("Content-Type", "")
                answer = httpx2.request(
                    self.command, f"http://{proxy.behind}{self.path}", content=body,
                    headers={"Host": self.headers["Host"], "Content-Type": kind},
                )  # fmt: skip
                kept = {k: v for k, v in answer.headers.items() if k.lower() == "location"}
                self.reply(answer.status_code, kept, answer.content)

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = serve  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_token_is_fetched_with_the_login_and_the_tag_comes_last(
    output: Path, tmp_path: Path
) -> None:
    secret = tmp_path / ".dockerconfigjson"
    with registry(tmp_path / "registry") as behind, in_front(proxy := Proxy(behind)) as address:
        proxy.realm = f"http://{address}"
        proxy.fail = {"PUT": 2, "POST": 1}
        login = {"username": USER, "password": PASSWORD}
        secret.write_text(json.dumps({"auths": {address: login}}))
        push(output, address, secret)
        expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        assert proxy.logins == [f"Basic {expected}"]
        manifests = [n for n, call in enumerate(proxy.calls) if "/manifests/" in call]
        assert manifests == [len(proxy.calls) - 1], "nobody sees the tag before all is there"
        assert pulled(behind, "v1")[2] == files_of(output / "merged")


def test_a_login_is_not_sent_without_encryption_where_the_registry_is_encrypted() -> None:
    from finetune_trainer.publishing.registry import Registry, RegistryError

    registry = Registry("reg.test", "team/bot", login=(USER, PASSWORD))
    asks = 'Bearer realm="http://elsewhere.test/token"'
    response = httpx2.Response(401, headers={"WWW-Authenticate": asks})
    with pytest.raises(RegistryError, match="wants the login sent to 'http://elsewhere"):
        registry._answer(response)
