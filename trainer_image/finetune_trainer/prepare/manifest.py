"""Manifests of prepared folders: what is inside, and from what it was made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

VERSION = 7
"""Raised whenever prepare would make something else of the same input."""

MANIFEST = "manifest.json"


def digest_of(content: Any) -> str:
    """SHA-256 of a JSON value, as ``sha256:<hex>``."""
    return "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, as ``sha256:<hex>``."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> list[list[str | int]]:
    """Name, size and time of every file below ``path``: cheap evidence that a source changed."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [
        [str(file.relative_to(path)), (status := file.stat()).st_size, status.st_mtime_ns]
        for file in files
    ]


def describe_files(folder: Path) -> dict[str, dict[str, str | int]]:
    """Size and SHA-256 of every file below ``folder``, by relative path, without the manifest."""
    return {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "digest": file_digest(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }


def seal(
    folder: Path, input_digest: str, facts: dict[str, Any], apart: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Write the manifest of a finished folder; ``digest`` covers names and contents of files, but
    for those that only tell of it (``apart``)."""
    for path in folder.rglob("*"):
        # Some writers leave files that only their owner may read.
        path.chmod(0o755 if path.is_dir() else 0o644)
    files = describe_files(folder)
    manifest = {
        "version": VERSION,
        "inputDigest": input_digest,
        "digest": digest_of(
            {name: entry["digest"] for name, entry in files.items() if name not in apart}
        ),
        **facts,
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder. Raises ``FileNotFoundError``."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return manifest


def reusable(folder: Path, input_digest: str) -> dict[str, Any] | None:
    """The manifest of an earlier result for the same input whose files are all there, or None."""
    try:
        manifest = read_manifest(folder)
        same = manifest["version"] == VERSION and manifest["inputDigest"] == input_digest
        whole = all(
            (folder / name).stat().st_size == entry["bytes"]
            for name, entry in manifest["files"].items()
        )
    except (OSError, json.JSONDecodeError, KeyError):
        return None
    return manifest if same and whole else None
