"""Rows through a container of the user: out as JSON lines, and what came back in.

The stage ``fetch`` writes the rows of each training source into ``<folder>/in``; the container
reads them there and writes its own into ``<folder>/out``. Rows that cannot be read do not reach
it: they wait in ``<folder>/apart`` and are counted where they come from.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.config import Data, DataSource
from finetune_trainer.errors import BadData
from finetune_trainer.prepare.rows import RawRow
from finetune_trainer.prepare.samples import placed_rows
from finetune_trainer.prepare.sources import Located, SourceFile, locate

FIELD = "spec.data.augment"
_IN, _OUT, _APART = "in", "out", "apart"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """What is known of a source from before its rows went out."""

    rows: int
    """Rows that went out."""
    commit: str | None = None
    """Of a hub repository."""


def fetch_rows(data: Data, folder: Path) -> dict[str, Any]:
    """Fill ``folder`` for the container; returns how many rows there are. What an earlier run left
    in it is removed. Raises ``BadData``."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in (_IN, _OUT, _APART):
        (folder / part).mkdir(parents=True)
    scratch = folder / "fetched"
    counts = {}
    for index, source in enumerate(data.train):
        located = locate(source, scratch / str(index), data.max_download_bytes)
        counts[source.name] = _write(source, located, folder)
        log.info("%s: %d rows for the container", source.field, counts[source.name])
    shutil.rmtree(scratch, ignore_errors=True)
    return {"rowsIn": sum(counts.values())}


def augmented(source: DataSource, folder: Path) -> Located:
    """The rows that came back of a source. Raises ``BadData`` where there are none."""
    name = f"{source.name}.jsonl"
    path = folder / _OUT / name
    # A link could lead to what the container was not shown.
    if path.is_symlink() or not path.is_file() or not path.stat().st_size:
        raise BadData(
            f"{FIELD}: the container wrote no rows to {name}",
            "write one JSON object a line to $ROWS_OUT/<name>.jsonl, for each training source",
        )
    told = _facts(source, folder)
    files = [SourceFile(path, name)]
    return Located(files, told.commit, tuple(_apart(source, folder)))


def rows_in(data: Data, folder: Path) -> int:
    """Rows that went out, of all sources."""
    return sum(_facts(source, folder).rows for source in data.train)


def _write(source: DataSource, located: Located, folder: Path) -> int:
    count = 0
    apart = folder / _APART
    with (
        (folder / _IN / f"{source.name}.jsonl").open("w", encoding="utf-8") as out,
        (apart / f"{source.name}.jsonl").open("w", encoding="utf-8") as faults,
    ):
        for file, row in placed_rows(source, located):
            if row.fault is None:
                out.write(json.dumps(row.values, default=str) + "\n")
                count += 1
            else:
                told = dataclasses.replace(row, place=f"{file.name} {row.place}")
                faults.write(json.dumps(dataclasses.asdict(told)) + "\n")
    facts = {"rows": count, "commit": located.commit}
    (apart / f"{source.name}.json").write_text(json.dumps(facts))
    return count


def _facts(source: DataSource, folder: Path) -> Fetched:
    return Fetched(**json.loads((folder / _APART / f"{source.name}.json").read_text()))


def _apart(source: DataSource, folder: Path) -> Iterator[RawRow]:
    with (folder / _APART / f"{source.name}.jsonl").open(encoding="utf-8") as file:
        for line in file:
            yield RawRow(**json.loads(line))
