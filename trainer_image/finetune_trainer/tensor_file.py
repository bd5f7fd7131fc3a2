"""Writing a safetensors file in one pass: its bytes, its hash, and the disk's word for them.

Beside training, a second pass for the hash is CPU time that training lacks, and a writer must hear
when it shall stop. The library's writer can do neither; reading is left to it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from threading import Event
from typing import Any

import torch

from finetune_trainer.durable import sync

CHUNK_BYTES = 8 << 20
"""Hashed, written, and asked about at once."""
SYNC_BYTES = 64 << 20
"""Written before the disk has to follow: what a stop waits for, and what lies in the page cache.
What comes after goes past the cache, where the file system can do that: pages for a GB cost the
kernel up to 3 s of a CPU that training would use, and push other files out."""
BLOCK_BYTES = 4096
"""Past the cache, places and lengths are multiples of it."""
_HEADER_ALIGNMENT = 8
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
}

Arranged = list[tuple[str, torch.Tensor]]


class Stopped(Exception):  # noqa: N818 - no error: somebody asked for it
    """The file was given up on the way and is gone."""


def arranged(tensors: Mapping[str, torch.Tensor]) -> Arranged:
    """In the order of the file: large elements first, so that all are aligned without a gap."""
    return sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))


def header(tensors: Arranged) -> bytes:
    """What the file begins with: names, types, shapes and places.

    Source: the format's description in the readme of huggingface/safetensors.
    """
    entries, end = {}, 0
    for name, tensor in tensors:
        start, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def parts(tensors: Arranged) -> Iterator[memoryview]:
    """The file's content, one tensor after the other; at most one is copied to host memory."""
    yield memoryview(header(tensors))
    for _, tensor in tensors:
        yield raw(tensor)


def raw(tensor: torch.Tensor) -> memoryview:
    """Its bytes; those of the tensor itself where it lies in host memory."""
    flat = tensor.detach().to("cpu").contiguous().view(-1).view(torch.uint8)
    return flat.numpy().data


def write(path: Path, content: Iterable[memoryview], stop: Event | None = None) -> dict[str, Any]:
    """Write ``content`` durably. Returns size in bytes and SHA-256, as `manifest.fingerprint` does.

    Raises ``OSError``, and ``Stopped`` once ``stop`` is set; neither leaves a file.
    """
    digest, size, behind = hashlib.sha256(), 0, 0
    try:
        with path.open("wb", buffering=0) as file:
            for chunk in _chunks(content):
                if stop is not None and stop.is_set():
                    raise Stopped
                if len(chunk) % BLOCK_BYTES:
                    _past_the_cache(file, False)
                _write_all(file, chunk)
                digest.update(chunk)
                size, behind = size + len(chunk), behind + len(chunk)
                if behind >= SYNC_BYTES and not _is_past_the_cache(file):
                    os.fdatasync(file.fileno())
                    behind = 0
                    _past_the_cache(file, True)
            os.fsync(file.fileno())
        if (found := path.stat().st_size) != size:
            raise OSError(errno.EIO, f"{found} of {size} bytes arrived", str(path))
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise
    sync(path.parent)
    return {"size": size, "sha256": digest.hexdigest()}


def _chunks(content: Iterable[memoryview]) -> Iterator[memoryview]:
    """The content in one piece of memory that begins with a page; all but the last fill it."""
    memory = memoryview(mmap.mmap(-1, CHUNK_BYTES))
    filled = 0
    for part in content:
        while part:
            taken = min(len(part), CHUNK_BYTES - filled)
            memory[filled : filled + taken] = part[:taken]
            part, filled = part[taken:], filled + taken
            if filled == CHUNK_BYTES:
                yield memory
                filled = 0
    if filled:
        yield memory[:filled]


def _write_all(file: FileIO, chunk: memoryview) -> None:
    while chunk:
        try:
            chunk = chunk[file.write(chunk) :]
        except OSError as error:
            if error.errno != errno.EINVAL or not _is_past_the_cache(file):
                raise
            _past_the_cache(file, False)  # its blocks are larger


def _is_past_the_cache(file: FileIO) -> bool:
    return bool(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT)


def _past_the_cache(file: FileIO, wanted: bool) -> None:
    flags = fcntl.fcntl(file, fcntl.F_GETFL) & ~os.O_DIRECT
    with contextlib.suppress(OSError):  # a file system may not know it
        fcntl.fcntl(file, fcntl.F_SETFL, flags | (os.O_DIRECT if wanted else 0))
