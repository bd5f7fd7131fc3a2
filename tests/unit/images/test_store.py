"""The image store: its own place, long commands that end with us, clear refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from local_cluster.errors import LocalClusterError
from local_cluster.images import store as images_store
from local_cluster.images.store import Store, certificate_arguments

ROOT = Path(__file__).resolve().parents[3]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path))
    store = Store.from_environment()
    store.temporary.mkdir(parents=True)
    return store


def test_two_caches_have_stores_that_never_meet(tmp_path: Path) -> None:
    configurations = [
        Path(Store(tmp_path / name).environment()["CONTAINERS_STORAGE_CONF"]).read_text()
        for name in ("one", "two")
    ]
    first, second = (
        {line for line in text.splitlines() if "root" in line} for text in configurations
    )
    assert len(first) == len(second) == 2
    assert first.isdisjoint(second)


def test_an_empty_store_has_no_image(store: Store) -> None:
    assert not store.has("localhost/python-base:0")


def test_too_little_disk_is_said_with_the_way_out(store: Store) -> None:
    with pytest.raises(
        LocalClusterError, match=r"^The trainer needs 1000000 GiB .* FINETUNE_CACHE"
    ):
        store.require_space(1e6, "The trainer")


@needs_root
def test_only_what_a_step_says_of_itself_is_progress(store: Store) -> None:
    said: list[str] = []
    store.stream("image", ["sh", "-c", "echo noise; echo ':: installing torch'"], said.append)
    assert said == ["image: installing torch"]
    assert (store.logs / "image.log").read_text() == "noise\n:: installing torch\n"


@needs_root
def test_a_failure_shows_the_last_lines_and_names_the_log(store: Store) -> None:
    with pytest.raises(LocalClusterError) as raised:
        store.stream("image", ["sh", "-c", "seq 50; echo no such package >&2; exit 3"], print)
    lines = str(raised.value).splitlines()
    assert str(store.logs / "image.log") in lines[0]
    assert lines[-1] == "no such package"
    assert len(lines) < 20


@needs_root
def test_a_killed_build_leaves_no_process(store: Store, tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = (
        "import sys; from local_cluster.images.store import Store\n"
        "Store.from_environment().stream('image', ['sh', '-c', sys.argv[1]], print)"
    )
    # A grandchild, in a session of its own: what a compiler in a build step is.
    script = f"setsid sleep 1000.{os.getpid()} & touch {started}; wait"
    builder = subprocess.Popen(
        [sys.executable, "-c", code, script], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    _wait(lambda: started.exists() and _running(f"1000.{os.getpid()}"))
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    _wait(lambda: not _running(f"1000.{os.getpid()}"))


def _running(argument: str) -> bool:
    for process in Path("/proc").iterdir():
        try:
            if (
                process.name.isdigit()
                and argument.encode() in ((process / "cmdline").read_bytes().split(b"\0")[1:2])
            ):
                return True
        except OSError:  # gone meanwhile
            continue
    return False


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("named", "lent"),
    [
        pytest.param("company.pem", "company.pem", id="the user's own list"),
        pytest.param(None, "host.pem", id="the host's list"),
        pytest.param("missing.pem", None, id="a list that is not there"),
    ],
)
def test_a_build_borrows_the_hosts_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None, lent: str | None
) -> None:
    for name in ("company.pem", "host.pem"):
        (tmp_path / name).touch()
    monkeypatch.setattr(images_store, "HOST_CERTIFICATES", tmp_path / "host.pem")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    if named:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / named))
    arguments = certificate_arguments()
    if lent is None:
        assert arguments == []
    else:
        assert arguments[:2] == ["--volume", f"{tmp_path / lent}:{tmp_path / 'host.pem'}:ro"]
        assert arguments[2:] == ["--build-arg", f"SSL_CERT_FILE={tmp_path / 'host.pem'}"]
