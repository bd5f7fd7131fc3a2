"""Logs of the ranks: every line goes to the pod's output and to a bounded file on the volume.

The launcher reads the pipe of each rank and writes here, so that a rank which dies in native code
still leaves its last words.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections import deque
from pathlib import Path
from typing import IO

from finetune_trainer.redaction import Redactor, redact
from finetune_trainer.signatures.signature import MAX_LINES

LINE_LIMIT = 8192
"""Bytes of one line that are kept."""

log = logging.getLogger(__name__)


def configure(level: int = logging.INFO) -> None:
    """Log to standard output, one line a record; the launcher adds the rank."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level, force=True)


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _RedactedText(io.TextIOWrapper):
    def write(self, text: str) -> int:
        super().write(redact(text))
        return len(text)


def redact_streams() -> None:
    """Clear all that this process prints: libraries also print past the logging."""
    for name in ("stdout", "stderr"):
        stream = _RedactedText(
            getattr(sys, name).buffer, encoding="utf-8", errors="replace", line_buffering=True
        )
        setattr(sys, name, stream)


class RotatingFile:
    """An append-only text file of at most ``limit`` bytes, plus as much in ``<name>.1``.

    Writing never raises: a full or lost volume must not end a healthy training run. The first
    failure is logged, then the file stays silent.
    """

    def __init__(self, path: Path, *, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._file: IO[bytes] | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
        except OSError as error:
            log.warning("cannot write %s: %s", path, error)

    def write(self, line: bytes) -> None:
        if self._file is None:
            return
        try:
            if self._file.tell() + len(line) > self._limit:
                self._file.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._file = self._path.open("ab")
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            log.warning("cannot write %s any more: %s", self._path, error)
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class RankLog:
    """Copies one rank's output to a file and to this process's output, and keeps the end of it.

    Secrets are left out on the way. ``limit`` bounds the file in bytes (a second one of that size
    holds what came before).
    """

    def __init__(self, source: IO[bytes], *, rank: int, path: Path, limit: int) -> None:
        self._source = source
        self._prefix = f"[rank {rank}] ".encode()
        self._file = RotatingFile(path, limit=limit)
        self._recent: deque[str] = deque(maxlen=MAX_LINES)
        self._thread = threading.Thread(target=self._pump, name=f"log-{rank}", daemon=True)
        self._thread.start()

    @property
    def recent(self) -> list[str]:
        """The last lines, oldest first."""
        return list(self._recent)

    def drain(self, timeout: float) -> None:
        """Wait until the rank's output ends, at most ``timeout`` seconds: a child of the rank may
        hold the pipe open for ever."""
        self._thread.join(timeout)

    def _pump(self) -> None:
        out, redactor = sys.stdout.buffer, Redactor()
        while line := self._source.readline(LINE_LIMIT):
            # surrogateescape: bytes that are no UTF-8 come out as they went in
            text = line.removesuffix(b"\n").decode(errors="surrogateescape")
            line = redactor.line(text).encode(errors="surrogateescape") + b"\n"
            self._recent.append(line.decode(errors="replace").rstrip())
            out.write(self._prefix + line)
            out.flush()
            self._file.write(line)  # last: the volume may hang
        self._file.close()
