"""Configs (subsets) and splits of a hub dataset, as the front matter of its README.md has them.

What ``datasets.load_dataset(path, config, split=...)`` reads is read here: the same default config,
the same patterns of files. No program of a repository is run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets.data_files import sanitize_patterns  # type: ignore[import-untyped]
from fsspec.utils import glob_translate  # type: ignore[import-untyped]

from finetune_trainer.config import DataSource
from finetune_trainer.errors import BadData
from finetune_trainer.prepare.choice import (
    HELD_OUT,
    TRAIN,
    choose,
    data_files,
    is_trained_on,
    some,
)

DEFAULT = "default"
_SEPARATOR = r"[-._ /0-9]"
"""Around the name of a split in the name of a file, as the datasets library has it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Config:
    name: str
    folder: str
    """In which its files lie; "" or with '/' at its end."""
    splits: dict[str, list[str]]
    """Patterns of files by split, relative to ``folder``; empty: by the names of the files."""
    default: bool


def config_files(source: DataSource, names: list[str], card: Mapping[str, Any]) -> list[str]:
    """The data files of the config and split that the source names, or that are meant where it
    names none. Raises ``BadData``."""
    configs = _declared(source, card)
    if not configs:
        if source.config not in (None, DEFAULT):
            raise BadData(
                f"{source.field}.config: {_repository(source)} declares no configs",
                f"remove config, or name a folder with file; {some(names, 'it has')}",
            )
        return _by_name(source, names)
    config = _config(source, configs)
    if not config.splits:
        return _by_name(source, [name for name in names if name.startswith(config.folder)])
    splits = _splits(source, config)
    patterns = [config.folder + each for split in splits for each in config.splits[split]]
    try:
        found = data_files({name for each in patterns for name in _matching(each, names)})
    except ValueError as error:
        raise _unreadable(source, error) from error
    if not found:
        raise BadData(
            f"{source.field}.config: split {', '.join(splits)} of {config.name} has no data file "
            "(.jsonl, .json, .csv, .parquet)",
            f"its files are {', '.join(patterns[:4])}; {some(names, 'the repository has')}",
        )
    log.info("%s: config %s, split %s", source.field, config.name, ", ".join(splits))
    return found


def _declared(source: DataSource, card: Mapping[str, Any]) -> dict[str, _Config]:
    try:
        configs = [
            _Config(
                name=str(entry["config_name"]),
                folder=_folder(entry.get("data_dir")),
                splits=_patterns(entry.get("data_files")),
                default=entry.get("default") is True,
            )
            for entry in card.get("configs") or ()
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(source, error) from error
    return {config.name: config for config in configs}


def _config(source: DataSource, configs: dict[str, _Config]) -> _Config:
    """The one that is named, else the default one, or the only one."""
    if source.config is not None:
        if source.config in configs:
            return configs[source.config]
        raise BadData(
            f"{source.field}.config: {_repository(source)} has no config {source.config!r}",
            _listed("its configs are", configs),
        )
    if len(configs) == 1:
        return next(iter(configs.values()))
    default = next((config for config in configs.values() if config.default), None)
    if default := default or configs.get(DEFAULT):
        return default
    raise BadData(
        f"{source.field}.config: {_repository(source)} has {len(configs)} configs and none is the "
        "default",
        _listed("name one of", configs),
    )


def _splits(source: DataSource, config: _Config) -> list[str]:
    """The split that is named, else those of the source's side, or the only one."""
    if source.split is not None:
        if source.split in config.splits:
            return [source.split]
        raise BadData(
            f"{source.field}.split: config {config.name} of {_repository(source)} has no split "
            f"{source.split!r}",
            _listed("its splits are", config.splits),
        )
    mine = TRAIN if is_trained_on(source) else HELD_OUT
    found = [split for split in config.splits if split in mine]
    if found or len(config.splits) == 1:
        return found or list(config.splits)
    raise BadData(
        f"{source.field}.split: config {config.name} of {_repository(source)} has no split "
        f"{' or '.join(mine)}",
        _listed("name one of", config.splits),
    )


def _by_name(source: DataSource, names: list[str]) -> list[str]:
    """Where no patterns are declared, the names of files tell the split."""
    if source.split is None:
        return choose(source, names)
    named = re.compile(rf"(^|{_SEPARATOR}){re.escape(source.split)}($|{_SEPARATOR})")
    found = [name for name in data_files(names) if named.search(name)]
    if not found:
        raise BadData(
            f"{source.field}.split: no data file of {_repository(source)} is named after split "
            f"{source.split!r}",
            some(names, "it has"),
        )
    return found


def _matching(pattern: str, names: Sequence[str]) -> list[str]:
    if "://" in pattern:  # another repository: nothing here matches it
        return []
    matches = re.compile(glob_translate(pattern)).match
    return [name for name in names if matches(name)]


def _patterns(declared: Any) -> dict[str, list[str]]:
    return {
        split: [str(path).removeprefix("./") for path in paths]
        for split, paths in (sanitize_patterns(declared) if declared else {}).items()
    }


def _unreadable(source: DataSource, error: Exception) -> BadData:
    return BadData(
        f"{source.field}.uri: the README.md of {_repository(source)} declares configs that cannot "
        f"be read: {str(error)[:200]}",
        "name its files with the field file",
    )


def _folder(data_dir: object) -> str:
    folder = str(data_dir or "").removeprefix("./").strip("/")
    return f"{folder}/" if folder not in ("", ".") else ""


def _repository(source: DataSource) -> str:
    return source.hub.repository if source.hub else source.name


def _listed(verb: str, names: Mapping[str, Any]) -> str:
    return f"{verb} {', '.join(list(names)[:32])}{', …' if len(names) > 32 else ''}"
