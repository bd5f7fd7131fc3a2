"""Reading data files row by row, each row with its place in the file.

JSON lines, JSON arrays, CSV and Parquet; compressed (.gz, .zst, .bz2) except for Parquet. A row
that cannot be read is handed on as a fault with its place: it is counted, never skipped. Where the
boundaries of rows cannot be trusted (a cut file, an open quote, another encoding), the whole file
is refused, because what follows would be guesswork.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from finetune_trainer.errors import BadData
from finetune_trainer.prepare.cleaning.text import is_unicode

COMPRESSED = (".gz", ".zst", ".bz2")
KINDS = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
BROKEN = "brokenRows"
ENCODING = "encoding"
MAX_ROW_BYTES = 32 * 2**20
MAX_ARRAY_BYTES = 512 * 2**20
"""A JSON array has to be read whole; larger data belongs into JSON lines."""
MAX_EXCERPT = 200

_HEAD = 4096
_BATCH_BYTES = 16 * 2**20
_WIDE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True)
class RawRow:
    """One row as it stands in the file. ``values`` is empty where there is a ``fault``."""

    place: str
    """``line 17`` or ``row 17``, counted from 1."""
    number: int
    values: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None
    rule: str = BROKEN
    """Which cleaning rule the fault falls under."""
    excerpt: str = ""
    """The beginning of a row with a fault."""


class RawLine(NamedTuple):
    """A row of JSON lines that is still to be parsed, see ``parsed``."""

    number: int
    line: bytes


def file_kind(name: str) -> str | None:
    """``jsonl``, ``json``, ``csv`` or ``parquet`` by the file's name; None for other files."""
    path = Path(name)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
        return None if not suffixes or suffixes[-1] == ".parquet" else KINDS.get(suffixes[-1])
    return KINDS.get(suffixes[-1]) if suffixes else None


def set_apart(row: RawRow, file_name: str) -> str:
    """A row with a fault as a line for ``read_apart``; its place names the file."""
    return json.dumps(asdict(replace(row, place=f"{file_name} {row.place}"))) + "\n"


def read_apart(path: Path) -> Iterator[RawRow]:
    """Rows that were set apart."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield RawRow(**json.loads(line))


def read_rows(path: Path, name: str) -> Iterator[RawRow]:
    """All rows of a data file; empty lines are no rows. Raises as ``read_raw`` does."""
    return map(parsed, read_raw(path, name))


def parsed(row: RawRow | RawLine) -> RawRow:
    """The row with its values."""
    return row if isinstance(row, RawRow) else _json_row(row.number, row.line)


def read_raw(path: Path, name: str) -> Iterator[RawRow | RawLine]:
    """All rows of a data file as they are cheap to read; empty lines are no rows.

    Raises ``BadData`` where the file as a whole is unusable: empty, of an unknown kind, truncated.
    """
    if path.stat().st_size == 0:
        raise BadData(f"{name} is empty", "point the uri to a file with at least one row")
    kind = file_kind(name) or _sniff(path)
    try:
        if kind == "parquet":
            yield from _parquet(path)
        elif kind in ("csv", "json", "jsonl"):
            with _open(path) as stream:
                _check_text(stream, name)
                yield from {"csv": _csv, "json": _json, "jsonl": _jsonl}[kind](stream, name)
        else:
            raise BadData(
                f"{name} is no data file",
                "use .jsonl, .json, .csv (also .gz, .zst, .bz2) or .parquet",
            )
    except (pyarrow.ArrowException, OSError) as error:
        raise BadData(f"{name} cannot be read: {error}", "the file may be truncated") from error


def _open(path: Path) -> io.BufferedReader:
    return io.BufferedReader(pyarrow.input_stream(str(path), compression="detect"), 2**20)


def _check_text(stream: io.BufferedReader, name: str) -> None:
    head = stream.peek(_HEAD)[:_HEAD]
    if wide := _WIDE.get(head[:2]):
        raise BadData(f"{name} is {wide} text, not UTF-8", "save it as UTF-8")
    if b"\0" in head:
        raise BadData(f"{name} is binary, not text", "check that the uri names the data file")


def _jsonl(stream: BinaryIO, name: str) -> Iterator[RawRow | RawLine]:
    number = 0
    while line := stream.readline(MAX_ROW_BYTES):
        number += 1
        if len(line) == MAX_ROW_BYTES and not line.endswith(b"\n"):
            _skip_line(stream)
            fault = f"the row is larger than {MAX_ROW_BYTES >> 20} MiB"
            yield RawRow(f"line {number}", number, fault=fault, excerpt=_excerpt(line))
            continue
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield RawLine(number, line)


def _skip_line(stream: BinaryIO) -> None:
    while (rest := stream.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
        pass


def _json_row(number: int, line: bytes) -> RawRow:
    place = f"line {number}"
    try:
        return _object_row(place, number, _parse(line.decode().rstrip("\r\n")))
    except UnicodeDecodeError as error:
        fault = f"byte {error.start + 1} of the row is not UTF-8"
        return RawRow(place, number, fault=fault, rule=ENCODING, excerpt=_excerpt(line))
    except (ValueError, RecursionError) as error:
        # The line of the file stands in ``place``; the error would count it as line 1.
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        where = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        fault = f"not valid JSON ({what}{where})"[:MAX_EXCERPT]
        return RawRow(place, number, fault=fault, excerpt=_excerpt(line))


def _parse(text: str) -> Any:
    # NaN and Infinity are no JSON, but pandas writes them where a value is missing.
    return json.loads(text, parse_constant=lambda _: None)


def _object_row(place: str, number: int, values: object) -> RawRow:
    if not isinstance(values, dict):
        excerpt = json.dumps(values)[:MAX_EXCERPT]
        return RawRow(place, number, fault="a row must be a JSON object", excerpt=excerpt)
    return RawRow(place, number, values)


def _json(stream: io.BufferedReader, name: str) -> Iterator[RawRow | RawLine]:
    """A .json file is an array of objects; many files of that name hold JSON lines, though."""
    if not stream.peek(_HEAD).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield from _jsonl(stream, name)
        return
    content = stream.read(MAX_ARRAY_BYTES + 1)
    if len(content) > MAX_ARRAY_BYTES:
        raise BadData(
            f"{name} is a JSON array of more than {MAX_ARRAY_BYTES >> 20} MiB",
            "save it as JSON lines (one object a line, .jsonl)",
        )
    try:
        items = _parse(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadData(f"{name} is not UTF-8 text: {error.reason}", "save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise BadData(
            f"{name} is not valid JSON ({error})",
            "correct it, or save it as JSON lines: then only the broken rows are lost",
        ) from error
    for number, item in enumerate(items, start=1):
        yield _object_row(f"row {number}", number, item)


def _csv(stream: BinaryIO, name: str) -> Iterator[RawRow]:
    csv.field_size_limit(MAX_ROW_BYTES)
    # Bytes that are not UTF-8 become lone surrogates, by which the row is found again.
    lines = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.DictReader(lines, strict=True)
    try:
        header = list(reader.fieldnames or ())
        if not is_unicode(",".join(header)):
            raise BadData(f"{name}: the header is not UTF-8 text", "save the file as UTF-8")
        if twice := sorted({column for column in header if header.count(column) > 1}):
            raise BadData(f"{name}: the header names {twice[0]!r} twice", "rename one column")
        for values in reader:
            yield _csv_row(reader.line_num, values)
    except csv.Error as error:
        raise BadData(
            f"{name}: the row behind line {reader.line_num} is not valid CSV ({error})",
            "correct the quotes there: where rows begin and end cannot be told",
        ) from error


def _csv_row(number: int, values: dict[str | Any, Any]) -> RawRow:
    place = f"line {number}"
    cells = ",".join(str(value) for value in values.values())
    if not is_unicode(cells):
        fault = "the row is not UTF-8"
        return RawRow(place, number, fault=fault, rule=ENCODING, excerpt=_printable(cells))
    if None in values:
        fault = "more cells than the header has columns"
        return RawRow(place, number, fault=fault, excerpt=cells[:MAX_EXCERPT])
    return RawRow(place, number, values)


def _parquet(path: Path) -> Iterator[RawRow]:
    number = 0
    with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
        facts = file.metadata
        stored = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
        rows = max(1, min(1024, _BATCH_BYTES * facts.num_rows // max(1, stored)))
        for batch in file.iter_batches(batch_size=rows):
            for values in _batch_rows(batch):
                number += 1
                if isinstance(values, dict):
                    yield RawRow(f"row {number}", number, values)
                else:
                    rule = ENCODING if isinstance(values, UnicodeDecodeError) else BROKEN
                    yield RawRow(f"row {number}", number, fault=str(values)[:200], rule=rule)


def _batch_rows(batch: Any) -> Iterable[dict[str, Any] | ValueError]:
    try:
        rows: list[dict[str, Any] | ValueError] = batch.to_pylist()
    except (ValueError, OverflowError):
        # Some cell cannot become a Python value: find out whose.
        rows = [_batch_row(batch.slice(index, 1)) for index in range(batch.num_rows)]
    return rows


def _batch_row(batch: Any) -> dict[str, Any] | ValueError:
    try:
        row: dict[str, Any] = batch.to_pylist()[0]
    except ValueError as error:
        return error
    except OverflowError as error:
        return ValueError(str(error))
    return row


def _sniff(path: Path) -> str | None:
    """The kind of a file without a telling name, such as a claim's file mounted as one."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PAR1"):
        return "parquet"
    return {b"{": "jsonl", b"[": "json"}.get(start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1])


def _printable(text: str) -> str:
    return text[:MAX_EXCERPT].encode("utf-8", "backslashreplace").decode()


def _excerpt(line: bytes) -> str:
    return line[: MAX_EXCERPT * 4].decode("utf-8", "replace")[:MAX_EXCERPT].rstrip("\r\n")
