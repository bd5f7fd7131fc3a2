#!/usr/bin/env python3
"""From a bare Python to a command in one of the project's environments.

    python3 local_cluster/bootstrap.py cluster -- python -m quickstart
    python3 local_cluster/bootstrap.py tests   -- pytest tests

Standard library only, since it runs first. It gets uv (pinned by hash in bootstrap.lock), makes a
virtual environment from a lock file below the cache, named by the lock's hash, and becomes the
command. Nothing is put into the system's Python. A half-made environment has no `.complete`
and is made anew; two starts at once wait for each other.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)
GIBIBYTE = 1024**3
HOST_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

# name: (lock file, free GiB that a first installation needs with uv's cache)
ENVIRONMENTS = {
    "cluster": ("local_cluster/requirements.lock", 1.0),
    "operator": ("operator/requirements.lock", 1.0),
    "tests": ("tests/requirements.lock", 14.0),
}
# Where our packages lie; the working tree is used as it is, nothing of ours is installed.
SOURCES = ("", "examples", "operator", "trainer_image", "tests")


class BootstrapError(Exception):
    """Says in one sentence what is missing and what to do."""


def main(arguments: list[str]) -> int:
    """Make the environment, then become the command; returns only when that fails."""
    options = parse(arguments)
    try:
        check_host(needs_root=options.root)
        environment = prepare(options.environment)
    except BootstrapError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        return 130
    os.chdir(REPOSITORY)
    program = shutil.which(options.command[0], path=environment["PATH"])
    if program is None:
        print(f"There is no command {options.command[0]}.", file=sys.stderr)
        return 127
    return os.execve(program, options.command, environment)  # noqa: S606  (no shell is the point)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Environment, command and whether it needs root."""
    parser = argparse.ArgumentParser(description="Run a command in one of our environments.")
    parser.add_argument("--root", action="store_true", help="the command needs to be root")
    parser.add_argument("environment", choices=sorted(ENVIRONMENTS))
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND [ARGUMENT ...]")
    options = parser.parse_args(arguments)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        parser.error("name a command after --")
    return options


def check_host(*, needs_root: bool) -> None:
    """Refuse at once what would fail later: also for an existing cluster images are built here."""
    if sys.version_info < OLDEST_PYTHON:
        raise BootstrapError(
            f"Python {sys.version.split()[0]} is too old: install Python 3.11 or newer and name "
            "it with `make PYTHON=python3.11 ...`."
        )
    if needs_root and os.geteuid() != 0:
        raise BootstrapError(
            "Building images and the local cluster need root: run `sudo make ...`; for a cluster "
            "of yours `sudo KUBECONFIG=$HOME/.kube/config CONTEXT=... REGISTRY=... make ...`."
        )


def cache_root() -> Path:
    """`$FINETUNE_CACHE`, else `~/.cache/finetune-operator`, as in layout.py."""
    named = os.environ.get("FINETUNE_CACHE")
    home = os.environ.get("HOME") or "/root"
    return Path(named).absolute() if named else Path(home) / ".cache" / "finetune-operator"


def prepare(name: str) -> dict[str, str]:
    """Make the environment if it is not there; returns the process environment to run in."""
    cache = cache_root()
    lock_file, space = ENVIRONMENTS[name]
    lock = REPOSITORY / lock_file
    python = ".".join(map(str, sys.version_info[:2]))
    folder = cache / "venv" / f"{name}-{python}-{digest(lock)}"
    environment = dict(os.environ)
    if Path(HOST_CERTIFICATES).is_file():
        # uv brings its own list of authorities; behind a company proxy only the host's is right.
        environment.setdefault("SSL_CERT_FILE", HOST_CERTIFICATES)
    with locked(cache / "locks" / "bootstrap"):
        uv = install_uv(cache, environment)
        environment["UV"] = str(uv)
        if not (folder / ".complete").exists():
            make_environment(folder, lock, space, environment)
    # These packages are compiled once and then cached: torch alone takes seconds at each start.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["VIRTUAL_ENV"] = str(folder)
    environment["PATH"] = f"{folder / 'bin'}:{environment.get('PATH', os.defpath)}"
    environment["PYTHONPATH"] = ":".join(str(REPOSITORY / part) for part in SOURCES)
    return environment


def make_environment(folder: Path, lock: Path, space: float, environment: dict[str, str]) -> None:
    """A virtual environment of exactly the packages of the lock, at its final place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free / GIBIBYTE
    if free < space:
        raise BootstrapError(
            f"{folder.parent} needs {space:.0f} GiB of disk and has {free:.1f}: free some, or set "
            "FINETUNE_CACHE to a folder on a larger disk."
        )
    say(f"installing {lock.relative_to(REPOSITORY)} (the first time only)")
    started = time.monotonic()
    if folder.exists():
        shutil.rmtree(folder)
    uv = environment["UV"]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], environment)
    install = [uv, "pip", "install", *quiet, "--python", str(folder / "bin" / "python")]
    # --no-deps: the lock is complete; what it does not name does not come in.
    run([*install, "--no-deps", "--require-hashes", "--requirement", str(lock)], environment)
    (folder / ".complete").touch()
    say(f"installed in {time.monotonic() - started:.0f} s")


def install_uv(cache: Path, environment: dict[str, str]) -> Path:
    """The pinned uv, installed below the cache by whatever pip there is."""
    lock = Path(__file__).with_name("bootstrap.lock")
    folder = cache / f"uv-{digest(lock)}"
    program = folder / "bin" / "uv"
    if program.exists():
        return program
    say("installing uv")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        target = Path(temporary) / "uv"
        pip = [sys.executable, "-m", "pip"]
        if run([*pip, "--version"], environment, check=False) != 0:
            wheel = pip_wheel(Path(temporary), environment)
            pip = [sys.executable, str(wheel / "pip")]  # pip runs from its wheel
        run(
            [
                *(*pip, "--disable-pip-version-check", "install", "--quiet", "--no-deps"),
                *("--only-binary", ":all:", "--require-hashes"),
                *("--target", str(target), "--requirement", str(lock)),
            ],
            {**environment, "PIP_CERT": environment.get("SSL_CERT_FILE", "")},
        )
        target.rename(folder)
    return program


def pip_wheel(folder: Path, environment: dict[str, str]) -> Path:
    """pip from Debian's package of its wheel: unpacked here, not installed on the host."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise BootstrapError(
                "This Python has no pip and the host has no apt-get: install pip for it."
            )
    download = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "python3-pip-whl"]
    if run(download, environment, check=False, cwd=folder) != 0:
        run(["apt-get", "-q", "update"], environment)
        run(download, environment, cwd=folder)
    package = next(folder.glob("python3-pip-whl*.deb"))
    run(["dpkg-deb", "-x", str(package), str(folder / "pip")], environment)
    wheels = folder / "pip" / "usr" / "share" / "python-wheels"
    return next(wheels.glob("pip-*.whl"))


def run(
    command: list[str], environment: dict[str, str], *, check: bool = True, cwd: Path | None = None
) -> int:
    """Run a command; its output is shown only when a checked one fails, or on a terminal."""
    interactive = check and sys.stderr.isatty()
    done = subprocess.run(
        command,
        check=False,
        env=environment,
        cwd=cwd,
        text=True,
        stdout=None if interactive else subprocess.PIPE,
        stderr=None if interactive else subprocess.STDOUT,
    )
    if check and done.returncode != 0:
        last = "\n".join((done.stdout or "").strip().splitlines()[-12:])
        raise BootstrapError(
            f"`{' '.join(command[:4])} ...` failed (is the package index in reach?):\n{last}"
        )
    return done.returncode


class locked:  # noqa: N801  (reads as a verb: with locked(path))
    """Hold an advisory lock; the kernel drops it with the process, however that ends."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w")

    def __enter__(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another start to finish its set-up")
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def digest(path: Path) -> str:
    """12 hex digits of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def say(line: str) -> None:
    """One line of progress."""
    print(f"bootstrap: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
