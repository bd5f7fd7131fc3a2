"""Reading data files row by row, each row with its place in the file.

JSON lines, JSON arrays, CSV and Parquet; compressed (.gz, .zst, .bz2) except for Parquet. A row
that cannot be read is handed on as a fault with its place, so that one run reports several.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from finetune_trainer.errors import BadData

COMPRESSED = (".gz", ".zst", ".bz2")
KINDS = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_MAX_CELL = 2**27


@dataclass(frozen=True)
class RawRow:
    """One row as it stands in the file. ``values`` is empty where there is a ``fault``."""

    place: str
    """``line 17`` or ``row 17``, counted from 1."""
    number: int
    values: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None


def file_kind(name: str) -> str | None:
    """``jsonl``, ``json``, ``csv`` or ``parquet`` by the file's name; None for other files."""
    path = Path(name)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
        return None if not suffixes or suffixes[-1] == ".parquet" else KINDS.get(suffixes[-1])
    return KINDS.get(suffixes[-1]) if suffixes else None


def read_rows(path: Path, name: str) -> Iterator[RawRow]:
    """All rows of a data file; empty lines are skipped.

    Raises ``BadData`` where the file as a whole is unusable: empty, of an unknown kind, truncated.
    """
    if path.stat().st_size == 0:
        raise BadData(f"{name} is empty", "point the uri to a file with at least one row")
    kind = file_kind(name) or _sniff(path)
    try:
        if kind == "parquet":
            yield from _parquet(path)
        elif kind == "csv":
            yield from _csv(_text(path))
        elif kind == "json":
            yield from _json(path)
        elif kind == "jsonl":
            yield from _jsonl(_text(path))
        else:
            raise BadData(
                f"{name} is no data file",
                "use .jsonl, .json, .csv (also .gz, .zst, .bz2) or .parquet",
            )
    except UnicodeDecodeError as error:
        raise BadData(f"{name} is not UTF-8 text: {error.reason}", "save it as UTF-8") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise BadData(f"{name} cannot be read: {error}", "the file may be truncated") from error


def _text(path: Path) -> Iterable[str]:
    stream = pyarrow.input_stream(str(path), compression="detect")
    return io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig", newline="")


def _jsonl(lines: Iterable[str]) -> Iterator[RawRow]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _json_row(f"line {number}", number, line)


def _json_row(place: str, number: int, text: str) -> RawRow:
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        return RawRow(place, number, fault=f"not valid JSON ({error})")
    return _object_row(place, number, values)


def _object_row(place: str, number: int, values: object) -> RawRow:
    if not isinstance(values, dict):
        return RawRow(place, number, fault="a row must be a JSON object")
    return RawRow(place, number, values)


def _json(path: Path) -> Iterator[RawRow]:
    """A .json file is an array of objects; many files of that name hold JSON lines, though."""
    text = "".join(_text(path))
    if not text.lstrip().startswith("["):
        yield from _jsonl(io.StringIO(text))
        return
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        yield RawRow(f"line {error.lineno}", error.lineno, fault=f"not valid JSON ({error.msg})")
        return
    for number, item in enumerate(items, start=1):
        yield _object_row(f"row {number}", number, item)


def _csv(lines: Iterable[str]) -> Iterator[RawRow]:
    csv.field_size_limit(_MAX_CELL)
    reader = csv.DictReader(lines, strict=True)
    number = 1
    try:
        for values in reader:
            place, number = f"line {reader.line_num}", reader.line_num
            if None in values:
                yield RawRow(place, number, fault="more cells than the header has columns")
            else:
                yield RawRow(place, number, values)
    except csv.Error as error:
        yield RawRow(f"line {reader.line_num or number}", number, fault=f"not valid CSV ({error})")


def _parquet(path: Path) -> Iterator[RawRow]:
    number = 0
    with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
        for batch in file.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield RawRow(f"row {number}", number, values)


def _sniff(path: Path) -> str | None:
    """The kind of a file without a telling name, such as a claim's file mounted as one."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PAR1"):
        return "parquet"
    return {b"{": "jsonl", b"[": "json"}.get(start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1])
