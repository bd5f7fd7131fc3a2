"""Both sides of the data, read and cleaned: the samples to train on and those held out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import datasets  # type: ignore[import-untyped]

from finetune_trainer.config import Data, DataSource
from finetune_trainer.prepare.cleaning.clean import clean
from finetune_trainer.prepare.cleaning.compare import Table
from finetune_trainer.prepare.cleaning.rejects import Account, Ledger
from finetune_trainer.prepare.formats import SourceReport
from finetune_trainer.prepare.samples import FEATURES, SampleReader
from finetune_trainer.prepare.sources import locate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """The samples of one side, as a mapped table, and where they come from."""

    name: str
    samples: datasets.Dataset
    sources: tuple[DataSource, ...]
    reports: list[SourceReport]
    accounts: list[Account]


def read_sides(data: Data, scratch: Path, ledger: Ledger) -> tuple[Split, Split, int]:
    """Clean samples to train on and those held out, from eval sources or from train's own; and
    the number of held-out rows that are trained on."""
    train = _read("train", data.train, data, scratch, ledger)
    table = Table(train.samples, train.accounts, ledger)
    held, held_table = replace(train, name="eval"), None
    if data.eval:
        held = _read("eval", data.eval, data, scratch, ledger)
        held_table = Table(held.samples, held.accounts, ledger)
    sides = clean(table, held_table, data, scratch)
    return replace(train, samples=sides.train), replace(held, samples=sides.held), sides.leaked


def _read(
    name: str, sources: tuple[DataSource, ...], data: Data, scratch: Path, ledger: Ledger
) -> Split:
    located = [
        (source, locate(source, scratch / f"{name}-{index}", data.max_download_bytes))
        for index, source in enumerate(sources)
    ]
    reader = SampleReader(located, ledger, data.cleaning, data.expect.max_broken_fraction)
    try:
        samples = datasets.Dataset.from_generator(
            reader.__iter__,
            features=FEATURES,
            cache_dir=str(scratch / f"{name}-samples"),
            fingerprint=name,
        )
    except datasets.exceptions.DatasetGenerationError as error:
        # The library wraps what our reader raises.
        raise (error.__cause__ or error) from None
    for report in reader.reports:
        log.info("%s: %s (%s)", report.name, report.format, report.decided)
    return Split(name, samples, sources, reader.reports, reader.accounts)
