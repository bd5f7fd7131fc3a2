"""The installed libraries fail for real, and each failure is recognised by what it prints."""

from __future__ import annotations

import ctypes
import importlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet
import pytest
import torch
from huggingface_hub import HfApi
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from torch import distributed
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from finetune_trainer.outcome import failure_record

Fault = Callable[[Path], Any]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- files and memory


def full_disk(_: Path) -> None:
    with open("/dev/full", "w") as file:  # noqa: PTH123 - the kernel's own full disk
        file.write("x" * 100_000)


def host_memory(_: Path) -> None:
    torch.empty(2**50)


def torn_archive(folder: Path) -> None:
    torch.save({"a": torch.ones(1000)}, folder / "a.pt")
    write(folder / "a.pt", (folder / "a.pt").read_bytes()[:2000])
    torch.load(folder / "a.pt")


def no_text(folder: Path) -> None:
    write(folder / "a.jsonl", b"\xff\xfe").read_text(encoding="utf-8")


def no_parquet(folder: Path) -> None:
    pyarrow.parquet.read_table(write(folder / "a.parquet", b"notparquet"))


# --- models


def lfs_pointer(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n"
    safe_open(write(folder / "a.safetensors", pointer), "pt")


def cut_weights(folder: Path) -> None:
    save_file({"a": torch.ones(100, 100)}, folder / "a.safetensors")
    whole = (folder / "a.safetensors").read_bytes()
    safe_open(write(folder / "a.safetensors", whole[:-100]), "pt")


def other_shape(_: Path) -> None:
    torch.nn.Linear(4, 4).load_state_dict(torch.nn.Linear(8, 4).state_dict())


def unknown_token(_: Path) -> None:
    torch.nn.Embedding(4, 4)(torch.tensor([7]))


def unknown_architecture(folder: Path) -> None:
    write(folder / "config.json", '{"model_type": "nosucharch"}')
    AutoConfig.from_pretrained(folder)


def remote_code(folder: Path) -> None:
    write(folder / "config.json", '{"model_type": "nosucharch", "auto_map": {"AutoConfig": "x.Y"}}')
    AutoConfig.from_pretrained(folder)


def no_tokenizer(folder: Path) -> None:
    write(folder / "config.json", '{"model_type": "llama"}')
    AutoTokenizer.from_pretrained(folder)


def odd_tokenizer(folder: Path) -> None:
    Tokenizer.from_file(
        str(write(folder / "tokenizer.json", '{"version":"1.0","model":{"type":"Nope"}}'))
    )


def templated(template: str | None) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    tokenizer.chat_template = template
    tokenizer.apply_chat_template([{"role": "user", "content": "x"}])


def no_padding(_: Path) -> None:
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))(["a", "b"], padding=True)


def no_lora_target(_: Path) -> None:
    model: Any = torch.nn.Sequential(torch.nn.Linear(2, 2))
    get_peft_model(model, LoraConfig(target_modules=["nope"]))


# --- software


def no_module(_: Path) -> None:
    importlib.import_module("no_such_package")


def no_name(_: Path) -> None:
    exec("from transformers import NoSuchThing")


def no_library(_: Path) -> None:
    ctypes.CDLL("libcudart.so.99")


def batch_does_not_fit(_: Path) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    DeepSpeedConfig(
        {
            "train_batch_size": 7,
            "train_micro_batch_size_per_gpu": 2,
            "gradient_accumulation_steps": 2,
        }
    )


def smallest_loss_scale(_: Path) -> None:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    scaler = DynamicLossScaler(
        init_scale=1,
        scale_window=1,
        min_scale=1,
        delayed_shift=1,
        consecutive_hysteresis=False,
    )
    scaler.update_scale(True)


# --- the network


class Answer(BaseHTTPRequestHandler):
    code: ClassVar[int] = 200
    error: ClassVar[str] = ""

    def do_GET(self) -> None:
        self.send_response(self.code)
        self.send_header("X-Error-Code", self.error)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def hub(code: int, error: str = "") -> Iterator[str]:
    handler = type("Answer", (Answer,), {"code": code, "error": error})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def asked(code: int, error: str = "", revision: str | None = None) -> Fault:
    def ask(_: Path) -> None:
        with hub(code, error) as endpoint:
            HfApi(endpoint=endpoint, token=False).model_info("m/x", revision=revision)

    return ask


def no_such_name(_: Path) -> None:
    HfApi(endpoint="http://no-such-host.invalid", token=False).model_info("m/x")


def nobody_listens(_: Path) -> None:
    urllib.request.urlopen(f"http://127.0.0.1:{free_port()}")


def own_certificate(folder: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-keyout", folder / "key", "-out", folder / "certificate"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate", folder / "key")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def shake_hands() -> None:
            connection, _ = server.accept()
            with connection, pytest.raises(OSError):
                context.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=shake_hands)
        thread.start()
        try:
            urllib.request.urlopen(f"https://127.0.0.1:{port}")
        finally:
            thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def port_in_use(_: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        distributed.TCPStore("127.0.0.1", port, is_master=True, timeout=timedelta(seconds=3))


def nobody_to_meet(_: Path) -> None:
    distributed.TCPStore("127.0.0.1", free_port(), is_master=False, timeout=timedelta(seconds=1))


def nobody_sets_the_key(_: Path) -> None:
    store = distributed.TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=1)
    )
    store.get("missing")


def with_a_peer(folder: Path, *, peer_ends: bool) -> None:
    """all_reduce with a rank that ends, or that never takes part."""
    child = os.fork()
    rank = int(child == 0)
    if rank == 1:
        store = distributed.FileStore(str(folder / "store"), 2)
        group = distributed.ProcessGroupGloo(store, 1, 2, timedelta(seconds=20))
        if not peer_ends:
            threading.Event().wait(20)  # group lives as long, and with it the connection
        os._exit(9)
    try:
        store = distributed.FileStore(str(folder / "store"), 2)
        group = distributed.ProcessGroupGloo(store, 0, 2, timedelta(seconds=3))
        group.allreduce([torch.ones(10)]).wait()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


FAULTS: list[tuple[str, Fault]] = [
    ("DiskFull", full_disk),
    ("HostMemory", host_memory),
    ("TornArchive", torn_archive),
    ("DataUnreadable", no_text),
    ("DataUnreadable", no_parquet),
    ("SafetensorsTorn", lfs_pointer),
    ("SafetensorsTorn", cut_weights),
    ("WeightsMismatch", other_shape),
    ("TokenOutOfRange", unknown_token),
    ("UnknownArchitecture", unknown_architecture),
    ("RemoteCode", remote_code),
    ("TokenizerBroken", no_tokenizer),
    ("TokenizerBroken", odd_tokenizer),
    ("ChatTemplateMissing", lambda _: templated(None)),
    ("ChatTemplateRefused", lambda _: templated("{{ raise_exception('no such role') }}")),
    ("ChatTemplateRefused", lambda _: templated("{% for m in messages %}{{ m.x ")),
    ("PaddingToken", no_padding),
    ("LoraTargets", no_lora_target),
    ("ModuleMissing", no_module),
    ("ImportBroken", no_name),
    ("LibraryMissing", no_library),
    ("DeepspeedBatch", batch_does_not_fit),
    ("LossScale", smallest_loss_scale),
    ("HubGated", asked(401, "GatedRepo")),
    ("HubGated", asked(403, "GatedRepo")),
    ("HubUnauthorized", asked(401)),
    ("HubForbidden", asked(403)),
    ("HubNotFound", asked(404, "RepoNotFound")),
    ("HubRevision", asked(404, "RevisionNotFound", revision="nope")),
    ("HubRateLimit", asked(429)),
    ("HubServerError", asked(503)),
    ("NameNotResolved", no_such_name),
    ("HubUnreachable", nobody_listens),
    ("CertificateRefused", own_certificate),
    ("PortInUse", port_in_use),
    ("RendezvousTimeout", nobody_to_meet),
    ("RendezvousTimeout", nobody_sets_the_key),
    ("GlooPeerGone", lambda folder: with_a_peer(folder, peer_ends=True)),
    ("GlooTimeout", lambda folder: with_a_peer(folder, peer_ends=False)),
]


@pytest.mark.parametrize(
    ("signature", "fault"), [pytest.param(*row, id=f"{row[0]}-{n}") for n, row in enumerate(FAULTS)]
)
def test_a_real_failure_is_recognised(signature: str, fault: Fault, tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:
        fault(tmp_path)
    record = failure_record(caught.value)
    assert record.get("signature") == signature, record
    assert record["cause"] and record["hint"]


CUT_MAPPING = """
import mmap, sys
file = open(sys.argv[1], "wb+"); file.truncate(4096)
mapped = mmap.mmap(file.fileno(), 4096); file.truncate(0)
mapped[0]
"""


@pytest.mark.parametrize(
    ("signature", "program"),
    [
        ("BusError", CUT_MAPPING),
        ("SegmentationFault", "import ctypes; ctypes.string_at(0)"),
        ("IllegalInstruction", "import os; os.kill(os.getpid(), 4)"),
    ],
)
def test_a_native_death_is_recognised(signature: str, program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program, str(tmp_path / "file")],
        capture_output=True,
        text=True,
        check=False,
    )
    from finetune_trainer.verdict import silent_death

    record = silent_death(128 - done.returncode, done.stderr.splitlines())
    assert record.get("signature") == signature, done.stderr
