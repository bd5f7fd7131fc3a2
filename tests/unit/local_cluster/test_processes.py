"""A pid file means one process and no other."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from local_cluster import LocalClusterError
from local_cluster.processes import (
    Identity,
    ProcessTable,
    identify,
    is_alive,
    is_dying,
    stop_identities,
)

BOOT = "6f1c"


def fake_process(
    proc: Path, pid: int, *, state: str = "S", start: int = 100, name: str = "etcd",
    flags: int = 0, pending: int = 0, threads: int = 1,
) -> None:  # fmt: skip
    folder = proc / str(pid)
    for thread in range(threads):
        (folder / "task" / str(pid + thread)).mkdir(parents=True)
    fields = [state, "1", "1", "1", "0", "-1", str(flags), *["0"] * 12, str(start), *["0"] * 5]
    (folder / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}")
    (folder / "status").write_text(f"Name: x\nSigPnd:\t{pending:016x}\nShdPnd:\t{0:016x}\n")
    boot = proc / "sys/kernel/random"
    boot.mkdir(parents=True, exist_ok=True)
    (boot / "boot_id").write_text(f"{BOOT}\n")


@pytest.mark.parametrize("name", ["etcd", "a b", "evil) R 1 (", "((("])
def test_any_command_name_can_be_identified(tmp_path: Path, name: str) -> None:
    fake_process(tmp_path, 7, start=4242, name=name)
    assert identify(7, tmp_path) == Identity(7, 4242, BOOT)


@pytest.mark.parametrize(
    ("recorded", "alive"),
    [
        (Identity(7, 100, BOOT), True),
        (Identity(7, 99, BOOT), False),  # the pid was given to somebody else
        (Identity(7, 100, "other"), False),  # the machine was restarted
        (Identity(8, 100, BOOT), False),  # nobody has it
    ],
)
def test_a_reused_pid_is_somebody_else(tmp_path: Path, recorded: Identity, alive: bool) -> None:
    fake_process(tmp_path, 7, start=100)
    assert is_alive(recorded, tmp_path) is alive


@pytest.mark.parametrize(
    ("state", "threads", "gone"), [("Z", 1, True), ("X", 1, True), ("Z", 3, False), ("S", 1, False)]
)
def test_a_zombie_is_gone_when_its_last_thread_is(
    tmp_path: Path, state: str, threads: int, gone: bool
) -> None:
    fake_process(tmp_path, 7, state=state, threads=threads)
    assert (identify(7, tmp_path) is None) is gone


@pytest.mark.parametrize(
    ("facts", "dying"),
    [
        ({}, False),
        ({"state": "Z", "threads": 2}, True),
        ({"flags": 0x4}, True),
        ({"pending": 1 << (signal.SIGKILL - 1)}, True),
        ({"pending": 1 << (signal.SIGCHLD - 1)}, False),
    ],
)
def test_a_process_with_a_fatal_signal_is_dying(
    tmp_path: Path, facts: dict[str, int], dying: bool
) -> None:
    fake_process(tmp_path, 7, **facts)  # type: ignore[arg-type]
    assert is_dying(7, tmp_path) is dying


@pytest.fixture
def table(tmp_path: Path) -> ProcessTable:
    return ProcessTable(tmp_path / "run", tmp_path / "log")


def test_a_process_starts_once_and_stops(table: ProcessTable) -> None:
    assert table.start("sleeper", ["sleep", "60"]) is True
    identity = table.identity("sleeper")
    assert identity is not None
    assert os.getsid(identity.pid) == identity.pid, "Ctrl-C must not reach it"
    assert table.start("sleeper", ["sleep", "60"]) is False
    assert table.identity("sleeper") == identity

    table.stop("sleeper")
    assert table.identity("sleeper") is None
    assert table.names() == []


def test_a_process_that_ignores_sigterm_is_killed(table: ProcessTable) -> None:
    table.start("stubborn", ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"])
    while "up" not in table.log("stubborn").read_text():
        time.sleep(0.01)
    start = time.monotonic()
    table.stop("stubborn", grace=0.2)
    assert table.identity("stubborn") is None
    assert time.monotonic() - start >= 0.2


def test_a_stale_pid_file_kills_nobody_and_blocks_nothing(table: ProcessTable) -> None:
    table.start("mine", ["sleep", "60"])
    mine = table.identity("mine")
    assert mine is not None
    time.sleep(0.05)  # start times count in ticks of 10 ms, and a pid is not reused within one
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        record = json.loads(table._pid_file("mine").read_text())
        table._pid_file("mine").write_text(json.dumps(record | {"pid": stranger.pid}))
        assert table.identity("mine") is None
        table.stop("mine")
        assert stranger.poll() is None
        assert table.start("mine", ["sleep", "60"]) is True
    finally:
        table.stop("mine")
        stranger.kill()
        stranger.wait()
        stop_identities([mine], grace=0)


def test_names_come_in_the_order_of_starting(table: ProcessTable) -> None:
    for name in ("etcd", "apiserver", "a-kubelet"):
        table.start(name, ["sleep", "60"])
    assert table.names() == ["etcd", "apiserver", "a-kubelet"]
    table.stop(*table.names(), grace=0)


def test_pid_files_are_private(table: ProcessTable) -> None:
    table.start("sleeper", ["sleep", "60"])
    path = table._pid_file("sleeper")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    table.stop("sleeper", grace=0)


def test_the_last_words_of_a_process_are_in_the_error(table: ProcessTable) -> None:
    table.start("brief", ["sh", "-c", "echo no such file >&2; sleep 0.2; exit 1"])
    while table.identity("brief") is not None:
        time.sleep(0.01)
    error = table.died("brief")
    assert isinstance(error, LocalClusterError)
    assert "brief ended at once" in str(error)
    assert "no such file" in str(error)


def test_proxies_of_the_environment_stay_outside(
    table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("KEPT", "yes")
    table.start("shell", ["sh", "-c", "echo [$HTTPS_PROXY] [$KEPT]; sleep 0.2"])
    while table.identity("shell") is not None:
        time.sleep(0.01)
    assert "[] [yes]" in table.log("shell").read_text()


def test_an_identity_is_plain_data() -> None:
    assert dataclasses.asdict(Identity(1, 2, "b")) == {"pid": 1, "start": 2, "boot": "b"}
