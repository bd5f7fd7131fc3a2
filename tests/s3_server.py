"""A real S3 server on loopback: versitygw over a folder. Objects are files, buckets are folders."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cluster.api import wait_for
from local_cluster.binaries import Binaries
from local_cluster.processes import ProcessTable, bound_to_us

ACCESS, SECRET = "AKIAEXAMPLE", "example-secret"
FAMILY = "versitygw"


@dataclass(frozen=True)
class S3Server:
    endpoint: str
    root: Path
    login: Path
    """A folder like a mounted Secret, with the key that may do everything."""

    def place(self, bucket: str, key: str = "", **other: Any) -> dict[str, Any]:
        """As run.json has it."""
        return {
            "bucket": bucket,
            "key": key,
            "endpoint": self.endpoint,
            "loginPath": str(self.login),
            **other,
        }


def build_server() -> Path:
    """The program; compiled once, then taken from the cache."""
    binaries = Binaries()
    binaries.build([FAMILY], lambda stage, detail: print(f"[{stage}] {detail}"))
    return binaries.path("versitygw")


def write_login(folder: Path, **keys: str) -> Path:
    """A folder like a mounted Secret."""
    folder.mkdir(parents=True)
    for name, value in keys.items():
        (folder / name).write_text(value)
    return folder


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A server with its objects below ``folder / "root"``."""
    program = build_server()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    root = folder / "root"
    root.mkdir(parents=True)
    processes = ProcessTable(folder, folder)
    command = (program, "--access", ACCESS, "--secret", SECRET, "--port", address, "posix", root)
    processes.start("s3", bound_to_us(*command))
    login = write_login(
        folder / "login", AWS_ACCESS_KEY_ID=ACCESS, AWS_SECRET_ACCESS_KEY=SECRET + "\n"
    )
    try:
        wait_for("an S3 server", lambda: _listens(address), 20, "see its log")
        yield S3Server(f"http://{address}", root, login)
    finally:
        processes.stop("s3", grace=2)


def _listens(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
