"""Content hashes: what an image is made of names it, so equal inputs are built once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

# 48 bits: a tag that fits on a screen; collisions among a few hundred images do not happen.
DIGEST_LENGTH = 12


def content_digest(parts: Iterable[str | Path]) -> str:
    """12 hex digits over texts, files and folders, in the order given.

    A file counts with its name, its executable bit and its bytes; a folder with all files
    below it, byte code excepted. Times and owners do not count.
    """
    hasher = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            _add(hasher, b"text", part.encode())
            continue
        if not part.exists():
            raise FileNotFoundError(f"{part} is missing: an image is made of it")
        for file in _files(part):
            executable = b"x" if file.stat().st_mode & 0o100 else b"-"
            _add(hasher, file.relative_to(part.parent).as_posix().encode(), executable)
            _add(hasher, b"bytes", file.read_bytes())
    return hasher.hexdigest()[:DIGEST_LENGTH]


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for file in sorted(path.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            yield file


def _add(hasher: hashlib._Hash, name: bytes, value: bytes) -> None:
    # Lengths in front: no two lists of parts give the same stream.
    for field in (name, value):
        hasher.update(len(field).to_bytes(8, "big"))
        hasher.update(field)
