"""Rows through a container of the user: out as JSON lines, and what came back in.

The stage ``fetch`` writes the rows of each training source into ``<folder>/in``; the container
reads them there and writes its own into ``<folder>/out``. Rows that cannot be read do not reach
it: they wait in ``<folder>/apart`` and are counted where they come from.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.config import Data, DataSource
from finetune_trainer.errors import BadData
from finetune_trainer.prepare.rows import set_apart
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
    apart: int
    """Rows that could not be read, and did not."""
    commit: str | None = None
    """Of a hub repository."""
    licence: str | None = None


def fetch_rows(data: Data, folder: Path) -> dict[str, Any]:
    """Fill ``folder`` for the container; returns how many rows there are. What an earlier run left
    in it is removed. Raises ``BadData``."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in (_IN, _OUT, _APART):
        (folder / part).mkdir(parents=True)
    scratch = folder / "fetched"
    count = 0
    for index, source in enumerate(data.train):
        located = locate(source, scratch / str(index), data.max_download_bytes)
        found = _write(source, located, folder)
        log.info("%s: %d rows for the container", source.field, found)
        count += found
    shutil.rmtree(scratch, ignore_errors=True)
    return {"rowsIn": count}


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
    known = _facts(source, folder)
    return Located([SourceFile(path, name)], known.commit, known.licence, folder / _APART / name)


def remove_rows(folder: Path) -> None:
    """Remove the rows of this attempt, by whose number the folder is named, and of earlier ones."""
    for each in folder.parent.iterdir():
        if each.name.isdigit() and int(each.name) <= int(folder.name):
            shutil.rmtree(each, ignore_errors=True)
    with contextlib.suppress(OSError):  # a later attempt has its own there
        folder.parent.rmdir()


def counts(data: Data, folder: Path, read: int) -> dict[str, int]:
    """Rows that went out and came back, of all sources. ``read``: those that came back, and those
    that had been set apart."""
    known = [_facts(source, folder) for source in data.train]
    apart = sum(each.apart for each in known)
    return {"rowsIn": sum(each.rows for each in known), "rowsOut": read - apart}


def _write(source: DataSource, located: Located, folder: Path) -> int:
    count = unreadable = 0
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
                faults.write(set_apart(row, file.name))
                unreadable += 1
    facts = Fetched(count, unreadable, located.commit, located.licence)
    (apart / f"{source.name}.json").write_text(json.dumps(asdict(facts)))
    return count


def _facts(source: DataSource, folder: Path) -> Fetched:
    return Fetched(**json.loads((folder / _APART / f"{source.name}.json").read_text()))
