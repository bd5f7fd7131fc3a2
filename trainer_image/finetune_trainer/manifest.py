"""The manifest of a checkpoint: what makes a folder of files one whole, checkable thing."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from finetune_trainer.durable import sync

NAME = "manifest.json"


class CorruptCheckpointError(Exception):
    """The folder is not what its manifest says, or has none."""


class UnreadableCheckpointError(CorruptCheckpointError):
    """The volume does not give a file out, now or for ever. Its cause is the ``OSError``."""


def fingerprint(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def write(folder: Path, content: dict[str, Any]) -> str:
    """Write the manifest durably, as the last file of its folder. Returns its SHA-256."""
    body = json.dumps(content, indent=1, sort_keys=True).encode()
    with (folder / NAME).open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    sync(folder)
    return hashlib.sha256(body).hexdigest()


def read(folder: Path) -> dict[str, Any]:
    """The manifest. Raises ``CorruptCheckpointError`` and ``UnreadableCheckpointError``."""
    try:
        content = json.loads((folder / NAME).read_bytes())
    except (FileNotFoundError, IsADirectoryError, ValueError) as error:
        raise CorruptCheckpointError(f"{NAME} cannot be read: {error}") from error
    except OSError as error:
        raise UnreadableCheckpointError(f"{NAME} cannot be read: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
        raise CorruptCheckpointError(f"{NAME} lists no files")
    for name, facts in content["files"].items():
        if Path(name).name != name:
            raise CorruptCheckpointError(f"{NAME} names {name!r}, which is no file of its folder")
        if not isinstance(facts, dict) or not isinstance(facts.get("size"), int):
            raise CorruptCheckpointError(f"{NAME} does not say how large {name} is")
    return content


def verify(folder: Path) -> str:
    """Check every file against the manifest. Returns the manifest's SHA-256.

    Raises ``CorruptCheckpointError`` with the first file that differs, and its kind
    ``UnreadableCheckpointError``; ``FileNotFoundError`` for a file that goes meanwhile. Reads
    everything.
    """
    for name, expected in read(folder)["files"].items():
        path = folder / name
        try:
            _verify(path, expected)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UnreadableCheckpointError(f"{name} cannot be read: {error}") from error
    return hashlib.sha256((folder / NAME).read_bytes()).hexdigest()


def _verify(path: Path, expected: dict[str, Any]) -> None:
    if not path.is_file():
        raise CorruptCheckpointError(f"{path.name} is missing")
    found = path.stat().st_size
    if found != expected["size"]:
        raise CorruptCheckpointError(f"{path.name} has {found} bytes instead of {expected['size']}")
    if fingerprint(path) != expected:
        raise CorruptCheckpointError(f"{path.name} does not match its hash")
