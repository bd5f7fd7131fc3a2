"""Long-running processes: started into a namespace and cgroups, found again by pid *and* start
time, stopped in reverse order.

A pid alone proves nothing after a crash: the kernel gives it to someone else. The start time of
the process (field 22 of /proc/<pid>/stat, clock ticks since boot) together with the boot id makes
it one process and no other, so a stale pid file can never lead to a foreign process being killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from local_cluster.errors import LocalClusterError
from local_cluster.layout import private_dir, write_private

_PROC = Path("/proc")
_PF_EXITING = 0x4  # linux/sched.h

# How long a killed process may need to give its memory and sockets back.
_DEATH = 20.0  # seconds


@dataclass(frozen=True)
class Identity:
    """One process and no other: pid, its start in clock ticks since boot, and the boot."""

    pid: int
    start: int
    boot: str


def boot_id(proc: Path = _PROC) -> str:
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int, proc: Path = _PROC) -> Identity | None:
    """The identity of a process that still holds its files; None when there is none.

    The first thread may be a zombie while others are still closing sockets and files: only when
    all are gone is the process.
    """
    folder = proc / str(pid)
    try:
        state, *rest = _stat_fields(folder)
        if state in ("Z", "X", "x") and len(list((folder / "task").iterdir())) <= 1:
            return None
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Identity(pid=pid, start=int(rest[18]), boot=boot_id(proc))


def is_dying(pid: int, proc: Path = _PROC) -> bool:
    """Whether the process is on its way out: it looks alive and will not answer any more."""
    folder = proc / str(pid)
    try:
        state, *rest = _stat_fields(folder)
        status = (folder / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    pending = 0
    for line in status.splitlines():
        if line.startswith(("SigPnd:", "ShdPnd:")):
            pending |= int(line.split()[1], 16)
    killed = pending >> (signal.SIGKILL - 1) & 1
    return state in ("Z", "X", "x") or bool(int(rest[5]) & _PF_EXITING) or bool(killed)


def _stat_fields(folder: Path) -> list[str]:
    # The command name (field 2) may hold spaces and brackets: count from the last bracket.
    return (folder / "stat").read_text().rpartition(")")[2].split()


def is_alive(identity: Identity, proc: Path = _PROC) -> bool:
    """Whether that very process still runs (a reused pid is somebody else)."""
    return identify(identity.pid, proc) == identity


def reap(pid: int) -> None:
    """Collect a dead child of ours, so that it does not stay a zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def stop_identities(identities: Sequence[Identity], grace: float) -> None:
    """SIGTERM, wait up to `grace` seconds, then SIGKILL; returns when all are gone."""
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, _DEATH)):
        if seconds <= 0:
            continue
        for identity in identities:
            if is_alive(identity):
                try:
                    os.kill(identity.pid, number)
                except ProcessLookupError:
                    continue
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for identity in identities:
                reap(identity.pid)
            if not any(is_alive(identity) for identity in identities):
                return
            time.sleep(0.02)
    left = ", ".join(str(identity.pid) for identity in identities if is_alive(identity))
    raise LocalClusterError(
        f"Processes {left} survive SIGKILL (they hang in the kernel); restart the machine."
    )


def _without_proxies() -> dict[str, str]:
    """Our environment; what runs in a cluster talks to the cluster, never through a proxy."""
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}


def bound_to_us(*argv: str | Path) -> list[str | Path]:
    """The command of a short-lived helper, which nobody would look for after a kill of ours: it
    ends when the thread that starts it does."""
    return ["setpriv", "--pdeathsig", "KILL", *argv]


class ProcessTable:
    """The processes of one cluster: a pid file and a log file for each name."""

    def __init__(self, run: Path, logs: Path) -> None:
        self._run = run
        self._logs = logs

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        netns: str | None = None,
        cgroups: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
    ) -> bool:
        """Start `argv` as `name` unless it runs already; True when it was started now.

        netns: name of a network namespace to enter. cgroups: folders that the process joins
        before it becomes `argv`, so that not even its first child escapes.
        """
        if self.identity(name) is not None:
            return False
        private_dir(self._run)
        private_dir(self._logs)
        command = [str(part) for part in argv]
        if netns:
            # Not `ip netns exec`: that mounts a fresh /sys and hides the cgroups.
            command = ["nsenter", f"--net=/var/run/netns/{netns}", "--", *command]
        if cgroups:
            join = 'while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 1; shift; done; '
            command = [
                "sh",
                "-c",
                join + 'shift; exec "$@"',
                "join",
                *map(str, cgroups),
                "--",
                *command,
            ]
        with self.log(name).open("ab") as log:
            log.write(f"--- {time.strftime('%FT%TZ', time.gmtime())} {argv[0]}\n".encode())
            log.flush()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={**_without_proxies(), **(environment or {})},
            )
        # The table is the memory of this process, not the Popen object, which would warn when
        # collected while the child runs on.
        process.returncode = 0
        identity = identify(process.pid)
        if identity is None:
            raise self.died(name)
        write_private(
            self._pid_file(name),
            json.dumps({**asdict(identity), "order": time.time_ns()}),
        )
        return True

    def identity(self, name: str) -> Identity | None:
        """The living process of that name, or None."""
        record = self._record(name)
        if record is None:
            return None
        identity = Identity(
            pid=int(str(record["pid"])), start=int(str(record["start"])), boot=str(record["boot"])
        )
        deadline = time.monotonic() + _DEATH
        while time.monotonic() < deadline:
            reap(identity.pid)
            if not is_alive(identity):
                return None
            if not is_dying(identity.pid):
                return identity
            time.sleep(0.02)  # its successor needs the sockets that it still holds
        return identity

    def names(self) -> list[str]:
        """Every name with a pid file, in the order of starting."""
        records = {path.stem: self._record(path.stem) or {} for path in self._run.glob("*.pid")}
        return sorted(records, key=lambda name: int(str(records[name].get("order", 0))))

    def started_at(self, name: str) -> float | None:
        """Unix time at which the living process was started; None where there is none."""
        if self.identity(name) is None:
            return None
        return int(str((self._record(name) or {})["order"])) / 1e9

    def stop(self, *names: str, grace: float = 5.0) -> None:
        """Stop these processes together and forget them; a stale pid file is just forgotten."""
        identities = [found for name in names if (found := self.identity(name)) is not None]
        stop_identities(identities, grace)
        for name in names:
            self._pid_file(name).unlink(missing_ok=True)

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def died(self, name: str) -> LocalClusterError:
        """The error for a process that ended although it should run, with its last words."""
        lines: list[str] = []
        if self.log(name).exists():
            lines = self.log(name).read_text(errors="replace").splitlines()[-5:]
        return LocalClusterError(
            f"{name} ended at once; see {self.log(name)}. Its last lines:\n" + "\n".join(lines)
        )

    def _pid_file(self, name: str) -> Path:
        return self._run / f"{name}.pid"

    def _record(self, name: str) -> dict[str, object] | None:
        try:
            record = json.loads(self._pid_file(name).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return record if isinstance(record, dict) and "boot" in record else None
