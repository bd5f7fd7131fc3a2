"""Which files of a folder or repository are the rows of a source, by their names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from finetune_trainer.config import DataSource
from finetune_trainer.errors import BadData
from finetune_trainer.prepare.rows import file_kind

TRAIN = ("train",)
HELD_OUT = ("test", "valid", "validation", "eval", "dev")
"""Names of splits, by side."""


def is_trained_on(source: DataSource) -> bool:
    return source.field.startswith("spec.data.train")


def data_files(names: Iterable[str]) -> list[str]:
    """Those that rows can be read from."""
    return sorted(name for name in names if file_kind(name) and not _hidden(name))


def choose(source: DataSource, names: list[str]) -> list[str]:
    """The data files among all files; where a folder holds several splits, only those of the side
    of the source: ``train``'s, or those that are held out."""
    data = data_files(names)
    if not data:
        raise BadData(
            f"{source.field}.uri: no data file (.jsonl, .json, .csv, .parquet) in there",
            some(names, "it has"),
        )
    trains = is_trained_on(source)
    mine, other = (TRAIN, HELD_OUT) if trains else (HELD_OUT, TRAIN)
    named = [name for name in data if _is_split(name, mine)]
    rest = [name for name in data if not _is_split(name, other)]
    if named or rest:
        return named or rest
    if len(data) == 1 or not trains:  # many sets to evaluate by call their only split train
        return data
    raise BadData(f"{source.field}.file: several splits and none is train", some(data, "choose"))


def _is_split(name: str, words: tuple[str, ...]) -> bool:
    parts = PurePosixPath(name.lower()).parts
    stem = parts[-1].split(".")[0]
    tokens = {token for part in (*parts[:-1], stem) for token in part.replace("_", "-").split("-")}
    return not tokens.isdisjoint(words)


def _hidden(name: str) -> bool:
    # Mounted ConfigMaps and editors leave ..data and dot folders behind.
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def some(names: list[str], verb: str) -> str:
    shown = ", ".join(sorted(names)[:8]) or "nothing"
    return f"{verb}: {shown}{', …' if len(names) > 8 else ''}"
