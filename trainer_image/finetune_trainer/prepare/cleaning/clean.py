"""The cleaning of all sides, told in the order it happens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import datasets  # type: ignore[import-untyped]
import numpy as np

from finetune_trainer.config import Data
from finetune_trainer.prepare.cleaning import rules
from finetune_trainer.prepare.cleaning.compare import (
    Corpus,
    Table,
    duplicate_ids,
    exact_duplicates,
    length_outliers,
    ratio_outliers,
)
from finetune_trainer.prepare.cleaning.expect import check_leaked
from finetune_trainer.prepare.split import held_out


@dataclass(frozen=True)
class Sides:
    """What is left of the samples: to train on, held out, and general."""

    train: datasets.Dataset
    held: datasets.Dataset
    general: datasets.Dataset | None
    leaked: int
    """Held-out rows that (almost) stand in the training rows."""
    general_leaked: int
    """General rows that do."""
    clusters: list[int]
    """Sizes of the groups of near duplicates that were found, the largest first."""


def clean(
    train: Table,
    held: Table | None,
    general: Table | None,
    data: Data,
    scratch: Path,
    processes: int = 1,
) -> Sides:
    """Apply all rules that compare rows; where there is no ``held``, hold out a share of train.

    Rows that are only scored may be as odd as they like; only repeats among them are a fault.
    Raises ``BadData`` where a rule's policy is Fail, or too many of them are trained on.
    """
    tables = [table for table in (train, held, general) if table is not None]
    for table in tables:
        table.apply(rules.EXACT_DUPLICATES, exact_duplicates(table))
    train.apply(rules.DUPLICATE_IDS, duplicate_ids(train))
    train.apply(rules.LENGTH_OUTLIERS, length_outliers(train))
    train.apply(rules.RATIO_OUTLIERS, ratio_outliers(train))
    similarity = data.cleaning.near_duplicates.similarity
    corpus = Corpus(tables, similarity, scratch / "bands", processes)
    train.apply(rules.NEAR_DUPLICATES, corpus.near_duplicates())
    if held is None:
        side = _side(train, data.eval_fraction)
    else:
        side = np.zeros(len(train.alive), dtype=bool)
    apart = corpus.part > 0
    apart[~apart] = side[corpus.rows[~apart]]
    leaks = corpus.leaks(apart)
    train.apply(rules.EVAL_LEAKAGE, leaks.findings)
    stay = data.cleaning.eval_leakage != "Drop"
    held_samples = train.kept(side) if held is None else held.kept()
    general_samples = None if general is None else general.kept()
    of_general = frozenset() if general is None else corpus.numbers(len(tables) - 1)
    if stay:
        check_leaked(data.expect, len(leaks.equal - of_general), len(held_samples), "held-out")
        check_leaked(
            data.expect, len(leaks.equal & of_general), len(general_samples or ()), "general"
        )
    return Sides(
        train.kept(~side),
        held_samples,
        general_samples,
        len(leaks.held - of_general) if stay else 0,
        len(leaks.held & of_general) if stay else 0,
        corpus.clusters,
    )


def _side(table: Table, fraction: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which rows are held out: by their group, else by their content."""
    group = table.column("group")
    keys = np.where(group != 0, group, table.column("key"))
    side = np.zeros(len(keys), dtype=bool)
    side[table.alive] = held_out(keys[table.alive].view(np.uint64), fraction)
    return side
