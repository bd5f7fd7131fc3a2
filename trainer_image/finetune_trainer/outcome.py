"""How a stage ends: one JSON object, in the termination message and in a file on the volume.

The kubelet keeps 4,096 bytes of a termination message; ours stays below 3,000 whatever it is
given, because a cut object would be no JSON.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import time
import traceback
import uuid
from collections import deque
from pathlib import Path
from typing import Any

from finetune_trainer.errors import StageError, failure_class, hint_of, message_of
from finetune_trainer.explanation import explain
from finetune_trainer.last_lines import last_lines
from finetune_trainer.redaction import redact
from finetune_trainer.signatures.signature import MAX_LINES

TERMINATION_LOG = Path("/dev/termination-log")
MAX_BYTES = 2999

log = logging.getLogger(__name__)


def succeeded(stage: str, attempt: int, **result: Any) -> dict[str, Any]:
    """The outcome of a stage that did all its work."""
    return {"stage": stage, "attempt": attempt, "outcome": "succeeded", **result}


def failed(
    stage: str, attempt: int, error: BaseException, lines: list[str] | None = None
) -> dict[str, Any]:
    """The outcome of a stage that ``error`` ended; ``lines`` are its last log lines."""
    failure = failure_record(error, lines)
    return {"stage": stage, "attempt": attempt, "outcome": "failed", "failure": failure}


def failure_record(error: BaseException, lines: list[str] | None = None) -> dict[str, Any]:
    """The ``failure`` object of an outcome: class, exit code, message, explanation, lines, time.

    An unforeseen error carries the end of its traceback instead of log lines.
    """
    lines = lines or []
    kind = failure_class(error)
    expected = isinstance(error, StageError)
    record: dict[str, Any] = {
        "class": kind.name,
        "exitCode": kind.exit_code,
        "message": message_of(error),
    }
    if hint := hint_of(error):
        record["hint"] = hint
    trace = [] if expected else "".join(traceback.format_exception(error)).splitlines()
    explain(record, record["message"].splitlines(), trace or lines)
    record["lines"] = last_lines(trace or lines)
    record["at"] = round(time.time(), 3)
    return record


def encode(outcome: dict[str, Any]) -> bytes:
    """The outcome as JSON of at most ``MAX_BYTES``; older log lines and long texts go first."""
    outcome = copy.deepcopy(outcome)
    while len(encoded := _dump(outcome)) > MAX_BYTES:
        if not _shrink(outcome):
            essential = {key: outcome[key] for key in ("stage", "attempt", "outcome")}
            return _dump(essential)
    return encoded


def report(
    outcome: dict[str, Any], result: Path | None, termination_log: Path = TERMINATION_LOG
) -> None:
    """Write the outcome to the volume (``result``, if given) and as the termination message.

    Secrets stay behind: this is the only way out for texts of errors and logs.
    Neither place may turn a finished stage into a failed one, so a write that fails is only logged.
    """
    if result is not None:
        keep(outcome, result)
    try:
        termination_log.write_bytes(encode(_redacted(outcome)))
    except OSError as error:
        log.warning("cannot write the termination message %s: %s", termination_log, error)


def keep(outcome: dict[str, Any], result: Path) -> None:
    """Write the outcome to the volume, without secrets. A write that fails is only logged."""
    try:
        write_json(result, _redacted(outcome))
    except OSError as error:
        log.warning("cannot write %s: %s", result, error)


def write_json(path: Path, content: Any) -> None:
    """Replace ``path`` atomically: readers see the old object or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by process: in two pods these have the same numbers.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with temporary.open("w") as file:
        json.dump(content, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class RecentLines(logging.Handler):
    """Keeps the last log lines in memory, for the failure record."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=MAX_LINES)

    @property
    def lines(self) -> list[str]:
        return list(self._lines)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.extend(self.format(record).splitlines())


def _redacted(content: Any) -> Any:
    if isinstance(content, str):
        return redact(_unicode(content))
    if isinstance(content, dict):
        return {key: _redacted(value) for key, value in content.items()}
    if isinstance(content, list) and content and all(isinstance(item, str) for item in content):
        # together: a key may span several lines
        return redact(_unicode("\n".join(content))).split("\n")
    return [_redacted(item) for item in content] if isinstance(content, list) else content


def _unicode(text: str) -> str:
    """Names of files and columns may hold bytes that are no text; readers of JSON refuse those."""
    return text.encode("utf-8", "backslashreplace").decode()


def _dump(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _shrink(outcome: dict[str, Any]) -> bool:
    """Drop the least useful part; False when nothing is left to drop."""
    failure = outcome.get("failure", {})
    if failure.get("lines"):
        failure["lines"].pop(0)
        return True
    longest = max(_texts(outcome), key=lambda place: len(place[0][place[1]]), default=None)
    if longest is not None and len(longest[0][longest[1]]) > 100:
        holder, key = longest
        holder[key] = holder[key][: len(holder[key]) // 2] + " …"
        return True
    for key in ("sources", "warnings"):
        if outcome.get("data", {}).pop(key, None) is not None:
            return True
    for told in (outcome, outcome.get("train", {})):
        for key in ("datasets", "pairedPrompts"):
            if parts := told.get("metrics", {}).get(key):
                parts.pop()
                return True
    for key in ("checkpoints", "metrics", "train", "data"):
        if outcome.pop(key, None) is not None:
            return True
    return False


def _texts(content: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    found = [(content, key) for key, value in content.items() if isinstance(value, str)]
    for value in content.values():
        if isinstance(value, dict):
            found += _texts(value)
    return found
