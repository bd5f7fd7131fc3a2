"""Readers on generated files: no crash, and each row comes out as a sample or as a reject.

A few thousand rows in seconds; ``--fuzz-rows 100000`` goes on for minutes.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from finetune_trainer.config import Cleaning, DataSource
from finetune_trainer.errors import BadData
from finetune_trainer.prepare.cleaning.rejects import Ledger
from finetune_trainer.prepare.sample import FEATURES
from finetune_trainer.prepare.samples import SampleReader
from finetune_trainer.prepare.sources import Located, SourceFile

TEXTS = (
    "What?", "", " ", "a\r\nb", "🙂🙂", "你好", "\ud83d", "\x00\x1b", "\ufeffa", "nai\u0308ve",
    "<|im_end|>", "</s>", "x" * 3000, '"', "\\", "\u2028", "{}", "[1", "NaN",
)  # fmt: skip
VALUES: tuple[Any, ...] = (None, 1, 1.5, float("nan"), float("inf"), True, [], {}, [[]], 10**400)


def text(rng: random.Random) -> Any:
    return rng.choice(VALUES) if rng.random() < 0.1 else rng.choice(TEXTS)


def message(rng: random.Random) -> Any:
    if rng.random() < 0.1:
        return rng.choice((None, "hi", [], {"role": "user"}, {"from": "human", "value": "a"}))
    role = rng.choice(("user", "assistant", "assistant", "system", "tool", "human", 7))
    made: dict[str, Any] = {"role": role, "content": text(rng)}
    if rng.random() < 0.1:
        made["tool_calls"] = rng.choice(([{"function": {"name": "f"}}], "x", [1], {}))
    return made


def row(rng: random.Random) -> Any:
    kind = rng.random()
    if kind < 0.4:
        return {"messages": [message(rng) for _ in range(rng.randint(0, 4))]}
    if kind < 0.7:
        return {"prompt": text(rng), "response": text(rng), "system": text(rng), "id": text(rng)}
    if kind < 0.9:
        return {"text": text(rng), "id": rng.randint(0, 3)}
    return rng.choice(([], 1, None, {}, {"": ""}, {"messages": "[{}]"}, {"tools": "["}))


def damaged(rng: random.Random, line: bytes) -> bytes:
    """The line with some bytes changed, or cut short; never with a line feed more."""
    changed = bytearray(line)
    for _ in range(rng.randint(1, 4)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.choice(b'\xff\x00\x80"{}[],\\a ')
    return bytes(changed[: rng.randint(0, len(changed))] if rng.random() < 0.5 else changed)


def json_lines(rng: random.Random, rows: list[Any]) -> tuple[bytes, int]:
    lines = [json.dumps(item).encode() for item in rows]
    lines = [damaged(rng, line) if rng.random() < 0.2 else line for line in lines]
    content = (rng.choice((b"\n", b"\r\n"))).join(lines)
    return content, sum(bool(line.strip()) for line in content.split(b"\n"))


def json_array(rng: random.Random, rows: list[Any]) -> tuple[bytes, int]:
    return json.dumps(rows, indent=rng.choice((None, 1))).encode(), len(rows)


def csv_table(rng: random.Random, rows: list[Any]) -> tuple[bytes, int]:
    columns = rng.choice((["prompt", "response"], ["text"], ["messages", "id"]))
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(columns)
    for _ in rows:
        writer.writerow([text(rng) for _ in range(len(columns) + (rng.random() < 0.05))])
    return out.getvalue().encode("utf-8", "replace"), len(rows)


def parquet_table(rng: random.Random, rows: list[Any]) -> tuple[bytes, int]:
    def clean(value: Any) -> str | None:
        return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None

    columns = {name: [clean(text(rng)) for _ in rows] for name in ("prompt", "response", "id")}
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), out)
    return out.getvalue(), len(rows)


WRITERS: dict[str, Callable[[random.Random, list[Any]], tuple[bytes, int]]] = {
    "jsonl": json_lines,
    "json": json_array,
    "csv": csv_table,
    "parquet": parquet_table,
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda content: bytes(pyarrow.compress(content, codec="zstd", asbytes=True)),
}


def write_file(rng: random.Random, folder: Path) -> tuple[Path, int | None]:
    """A data file and the number of its rows; None where the file as a whole was damaged."""
    kind = rng.choice(("jsonl", "jsonl", "jsonl", "json", "csv", "parquet"))
    rows = [row(rng) for _ in range(rng.randint(0, 60))]
    content, count = WRITERS[kind](rng, rows)
    packer = "" if kind == "parquet" else rng.choice((*PACKERS, "", ""))
    content = PACKERS[packer](content)
    whole: int | None = count
    if rng.random() < 0.1:
        content, whole = damaged(rng, content), None
    path = folder / f"rows.{kind}{packer}"
    path.write_bytes(content)
    return path, whole


def read_file(
    path: Path, cleaning: Cleaning
) -> tuple[SampleReader, list[dict[str, Any]], list[dict[str, Any]]]:
    source = DataSource(name="rows", field="spec.data.train[0]", path=str(path))
    ledger = Ledger(path.with_name("rejects.jsonl"), cleaning)
    located = Located([SourceFile(path, path.name)])
    reader = SampleReader([(source, located)], ledger, cleaning)
    try:
        samples = list(reader)
    finally:
        ledger.close()
    lines = path.with_name("rejects.jsonl").read_text().splitlines()
    rejects = [json.loads(line) for line in lines]
    return reader, samples, [reject for reject in rejects if reject["action"] == "dropped"]


def place_of(reject: dict[str, Any]) -> str:
    unit = "line" if "line" in reject else "row"
    return f"{reject['file']} {unit} {reject[unit]}"


def test_every_row_of_every_file_is_a_sample_or_a_reject(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    wanted, seen, refused, seed = pytestconfig.getoption("--fuzz-rows"), 0, 0, 0
    while seen < wanted:
        seed += 1
        path, count = write_file(random.Random(seed), tmp_path)
        cleaning = Cleaning(emptyAnswers="Report" if seed % 2 else "Drop")
        try:
            reader, samples, rejects = read_file(path, cleaning)
        except BadData as error:
            assert error.message.startswith("spec.data.train[0]"), seed
            assert len(error.message) < 2000, seed
            refused += 1
            continue
        finally:
            path.unlink()
        (account,) = reader.accounts
        assert count is None or account.read == count, f"seed {seed}: {path.name}"
        assert account.read == len(samples) + len(rejects), f"seed {seed}"
        places = [s["place"] for s in samples] + [
            f"{r['file']} {unit} {r[unit]}"
            for r in rejects
            for unit in ("line", "row")
            if unit in r
        ]
        assert len(places) == len(set(places)) == account.read, f"seed {seed}"
        pyarrow.Table.from_pylist(samples, schema=FEATURES.arrow_schema)
        seen += account.read
    assert refused < seed
