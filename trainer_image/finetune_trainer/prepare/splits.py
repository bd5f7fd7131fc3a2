"""The sides of the data, read and cleaned: samples to train on, held-out ones, general ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import datasets  # type: ignore[import-untyped]
import pyarrow  # type: ignore[import-untyped]

from finetune_trainer.config import Data, DataSource
from finetune_trainer.errors import BadData
from finetune_trainer.prepare.augment import augmented as located_after
from finetune_trainer.prepare.cleaning.clean import clean
from finetune_trainer.prepare.cleaning.compare import Table
from finetune_trainer.prepare.cleaning.rejects import Account, Ledger
from finetune_trainer.prepare.content import Sides
from finetune_trainer.prepare.formats import SourceReport
from finetune_trainer.prepare.sample import FEATURES
from finetune_trainer.prepare.samples import SampleReader
from finetune_trainer.prepare.sources import Located, locate
from finetune_trainer.prepare.workers import usable_processes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """The samples of one side, as a mapped table, and where they come from."""

    name: str
    samples: datasets.Dataset
    sources: tuple[DataSource, ...]
    reports: list[SourceReport]
    accounts: list[Account]


@dataclass(frozen=True)
class AllSides:
    """What is left after cleaning."""

    train: Split
    held: Split
    general: Split | None
    leaked: int
    """Held-out rows that are trained on."""
    general_leaked: int
    """General rows that are."""
    clusters: list[int]
    """Sizes of the groups of near duplicates that were found, the largest first."""


def locate_sides(data: Data, scratch: Path, augmented: Path | None = None) -> Sides:
    """The sources of all sides with their files, loaded below ``scratch`` if they are not mounted.
    ``augmented``: where the rows to train on came back from a container of the user."""

    def located(name: str, index: int, source: DataSource) -> tuple[DataSource, Located]:
        if name == "train" and augmented is not None:
            return source, located_after(source, augmented)
        return source, locate(source, scratch / f"{name}-{index}", data.max_download_bytes)

    sides = {"train": data.train, "eval": data.eval, "general": data.general}
    return {
        name: [located(name, index, source) for index, source in enumerate(sources)]
        for name, sources in sides.items()
    }


def read_sides(data: Data, sides: Sides, scratch: Path, ledger: Ledger) -> AllSides:
    """Clean samples to train on, those held out, from eval sources or from train's own, and general
    ones."""
    train = _read("train", data, sides, scratch, ledger)
    table = Table(train.samples, train.accounts, ledger)
    held, held_table = replace(train, name="eval"), None
    if data.eval:
        held = _read("eval", data, sides, scratch, ledger)
        held_table = Table(held.samples, held.accounts, ledger)
    general, general_table = None, None
    if data.general:
        general = _read("general", data, sides, scratch, ledger)
        general_table = Table(general.samples, general.accounts, ledger)
    cleaned = clean(table, held_table, general_table, data, scratch, usable_processes())
    return AllSides(
        replace(train, samples=cleaned.train),
        replace(held, samples=cleaned.held),
        general and replace(general, samples=cleaned.general),
        cleaned.leaked,
        cleaned.general_leaked,
        cleaned.clusters,
    )


def _read(name: str, data: Data, sides: Sides, scratch: Path, ledger: Ledger) -> Split:
    located = sides[name]
    reader = SampleReader(
        located,
        ledger,
        data.cleaning,
        data.expect.max_broken_fraction,
        data.report.columns,
        usable_processes(),
    )
    samples = _mapped(reader.batches(), scratch / f"{name}-samples.arrow")
    for report in reader.reports:
        log.info("%s: %s (%s)", report.name, report.format, report.decided)
    if reader.absent and name == "train":
        _refuse_columns(data.report.columns, reader)
    sources = tuple(source for source, _ in located)
    return Split(name, samples, sources, reader.reports, reader.accounts)


def _refuse_columns(columns: tuple[str, ...], reader: SampleReader) -> None:
    column = next(column for column in columns if column in reader.absent)
    raise BadData(
        f"spec.data.report.columns[{columns.index(column)}]: no training row has a column "
        f"{column!r}",
        "name a column as the data has it (nested ones cannot be named), or remove it",
    )


def _mapped(batches: Iterable[pyarrow.RecordBatch], path: Path) -> datasets.Dataset:
    """The samples as a table that is mapped from disk. Written here and not by
    ``Dataset.from_generator``, which spends more time on a row than reading and checking it."""
    schema = FEATURES.arrow_schema
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return datasets.Dataset.from_file(str(path))
