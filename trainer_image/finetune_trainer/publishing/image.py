"""A folder of files as an OCI image: tar layers, configuration, manifest (OCI image-spec 1.1).

The files lie at the root of the image, each weight file in a layer of its own. The same files give
the same bytes, and so the same digest: a push that is repeated moves nothing.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_CHUNK = 2**20
_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Blob:
    """Content that a registry keeps by its digest; read as often as needed, never whole."""

    media_type: str
    digest: str
    size: int
    files: tuple[tuple[str, Path], ...] = ()
    """Of a layer: name in the image and file."""
    content: bytes = b""
    """Of anything else."""

    def read(self) -> Iterator[bytes]:
        return _tar(self.files) if self.files else iter((self.content,))

    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class Image:
    blobs: tuple[Blob, ...]
    """Layers and configuration, to be there before the manifest."""
    manifest: bytes

    @property
    def digest(self) -> str:
        return _digest(self.manifest)


def build_image(folder: Path, annotations: Mapping[str, str]) -> Image:
    """Reads every file of ``folder`` once, for the digests. Raises ``OSError``."""
    layers = [_layer(files) for files in _grouped(folder)]
    config = _json_blob(
        _CONFIG_TYPE,
        {
            "architecture": "amd64",  # required; files of a model run on none
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        },
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config.descriptor(),
            "layers": [layer.descriptor() for layer in layers],
            "annotations": dict(annotations),
        }
    )
    return Image((*layers, config), manifest)


def _grouped(folder: Path) -> Iterator[tuple[tuple[str, Path], ...]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [(str(path.relative_to(folder)), path) for path in paths]
    weights = [(name, path) for name, path in files if path.suffix in (".safetensors", ".gguf")]
    yield from ((each,) for each in weights)
    if rest := tuple(each for each in files if each not in weights):
        yield rest


def _layer(files: tuple[tuple[str, Path], ...]) -> Blob:
    digest, size = hashlib.sha256(), 0
    for chunk in _tar(files):
        digest.update(chunk)
        size += len(chunk)
    return Blob(_LAYER_TYPE, f"sha256:{digest.hexdigest()}", size, files)


def _tar(files: tuple[tuple[str, Path], ...]) -> Iterator[bytes]:
    for name, path in files:
        entry = tarfile.TarInfo(name)  # no owner, no time
        entry.size, entry.mode = path.stat().st_size, 0o444
        yield entry.tobuf(tarfile.PAX_FORMAT)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
        yield bytes(-entry.size % tarfile.BLOCKSIZE)
    yield _END


def _json_blob(media_type: str, content: Any) -> Blob:
    body = _json(content)
    return Blob(media_type, _digest(body), len(body), content=body)


def _json(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":"), sort_keys=True).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
