"""The stage prepare: model → samples → tokens → rows → files, told in the order it happens."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
from transformers import PreTrainedTokenizerBase as Tokenizer

from finetune_trainer.config import DataSource, RunConfig
from finetune_trainer.errors import BadData, ConfigInvalid
from finetune_trainer.model import load_tokenizer
from finetune_trainer.prepare import manifest as manifests
from finetune_trainer.prepare.model import end_of_turn_ids, prepare_model
from finetune_trainer.prepare.pack import one_each, pack
from finetune_trainer.prepare.samples import FEATURES, SampleReader, SourceReport
from finetune_trainer.prepare.sources import locate
from finetune_trainer.prepare.split import held_out
from finetune_trainer.prepare.store import Segment, write_split
from finetune_trainer.prepare.tokenize import (
    Tokenization,
    Tokenized,
    plain_sources,
    tokenize_split,
)
from finetune_trainer.steps import planned_steps

log = logging.getLogger(__name__)

_MAX_PROCESSES = 8


def run(config: RunConfig, workspace: Path) -> dict[str, Any]:
    """Fill ``<workspace>/model`` and ``<workspace>/data``; return ``model``, ``data``, ``steps``.

    Repeating it with the same input is harmless and quick. Raises ``ModelLoad``, ``BadData`` or
    ``ConfigInvalid``, each naming the field.
    """
    started = time.monotonic()
    model = prepare_model(config.model, workspace)
    _check_length(config, model)
    data = prepare_data(config, workspace, model)
    steps = planned_steps(config, data["packedRows"])
    log.info("prepared in %.1f s: %d steps", time.monotonic() - started, steps)
    return {"model": _summary(model), "data": data, "steps": steps}


def prepare_data(config: RunConfig, workspace: Path, model: dict[str, Any]) -> dict[str, Any]:
    """Make ``<workspace>/data`` and return its counts; an earlier equal result is kept."""
    folder = workspace / "data"
    input_digest = _input_digest(config, model)
    if kept := manifests.reusable(folder, input_digest):
        log.info("the data is there already: %s", kept["digest"])
        return _counts(kept)
    scratch = manifests.fresh_sibling(workspace / "data-source")
    temporary = manifests.fresh_sibling(folder)
    tokenizer = load_tokenizer(workspace / "model")
    end_of_turn = end_of_turn_ids(workspace / "model")

    train, held = _samples(config, scratch)
    facts: dict[str, Any] = {"rows": train.read}
    dropped: Counter[str] = Counter()
    for split in (train, held):
        _check_template(split, tokenizer)
        tokenized = tokenize_split(
            split.samples,
            Tokenization(
                tokenizer, config.data, plain_sources(tokenizer, split.reports), end_of_turn
            ),
            [source.field for source in split.sources],
            scratch / split.name,
            _processes(),
        )
        dropped += tokenized.dropped
        facts |= _write(config, temporary, split, tokenized)
    leaked = len(set(train.samples["key"]) & set(held.samples["key"]))
    if leaked:
        log.warning("%d rows stand in both train and eval; eval will look too good", leaked)
    manifest = manifests.seal(
        temporary,
        input_digest,
        {
            **facts,
            "dropped": dict(sorted(dropped.items())),
            "rowsInTrainAndEval": leaked,
            "sequenceLength": config.data.sequence_length,
            "sources": [asdict(report) for report in train.reports],
            "evalSources": [asdict(report) for report in held.reports] if config.data.eval else [],
            "model": model["digest"],
        },
    )
    manifests.publish(temporary, folder)
    shutil.rmtree(scratch, ignore_errors=True)
    return _counts(manifest)


@dataclass(frozen=True)
class _Split:
    """The samples of one side, as a mapped table, and where they come from."""

    name: str
    samples: datasets.Dataset
    sources: tuple[DataSource, ...]
    reports: list[SourceReport]

    @property
    def read(self) -> int:
        return sum(report.rows for report in self.reports)


def _samples(config: RunConfig, scratch: Path) -> tuple[_Split, _Split]:
    """The samples to train on and those held out: from eval sources, or split by content hash."""
    train = _read("train", config.data.train, config.data.max_download_bytes, scratch)
    if config.data.eval:
        return train, _read("eval", config.data.eval, config.data.max_download_bytes, scratch)
    sides = held_out(train.samples["key"], config.data.eval_fraction)
    held = train.samples.select([i for i, out in enumerate(sides) if out])
    rest = train.samples.select([i for i, out in enumerate(sides) if not out])
    return replace(train, samples=rest), replace(train, name="eval", samples=held)


def _read(name: str, sources: tuple[DataSource, ...], max_bytes: int, scratch: Path) -> _Split:
    located = [
        (source, locate(source, scratch / f"{name}-{index}", max_bytes))
        for index, source in enumerate(sources)
    ]
    reader = SampleReader(located)
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
    return _Split(name, samples, sources, reader.reports)


def _check_template(split: _Split, tokenizer: Tokenizer) -> None:
    for source, report in zip(split.sources, split.reports, strict=True):
        if report.format == "Chat" and not tokenizer.chat_template:
            raise BadData(
                f"spec.model.chatTemplate: the model has no chat template, and {source.field} "
                f"holds conversations",
                "put a Jinja template into a ConfigMap and name it there",
            )


def _write(config: RunConfig, folder: Path, split: _Split, tokenized: Tokenized) -> dict[str, Any]:
    """Pack and write one split; returns its counts under the names of the result."""
    isolated = config.data.packing == "Isolated"
    lengths = tokenized.lengths
    rows = pack(lengths, config.data.sequence_length) if isolated else one_each(lengths)
    write_split(folder / split.name, _segments(tokenized, rows), sum(lengths))
    kept = len(set(tokenized.samples))
    log.info("%s: %d of %d samples in %d rows", split.name, kept, len(split.samples), len(rows))
    if split.name == "eval":
        return {
            "evalRows": kept,
            "evalTokens": sum(lengths),
            "evalPackedRows": len(rows),
        }
    if not rows:
        dropped = ", ".join(f"{rule}: {n}" for rule, n in tokenized.dropped.items())
        raise BadData(
            f"{split.sources[0].field}: no row is left to train on ({dropped or 'no rows'})",
            "every row needs an answer that begins within spec.data.sequenceLength",
        )
    return {
        "kept": kept,
        "tokens": sum(lengths),
        "supervisedTokens": tokenized.supervised,
        "packedRows": len(rows),
        "truncated": tokenized.truncated,
        "endOfTurn": tokenized.end_of_turn,
    }


def _segments(tokenized: Tokenized, rows: list[list[int]]) -> Iterator[list[Segment]]:
    for row in rows:
        yield [tokenized.segment(place) for place in row]


def _check_length(config: RunConfig, model: dict[str, Any]) -> None:
    longest = model["contextLength"]
    if longest is not None and config.data.sequence_length > longest:
        raise ConfigInvalid(
            f"spec.data.sequenceLength: {config.data.sequence_length} is more than the model's "
            f"context of {longest} tokens",
            f"set it to at most {longest}",
        )


def _input_digest(config: RunConfig, model: dict[str, Any]) -> str:
    sources = (*config.data.train, *config.data.eval)
    paths = {source.path for source in sources if source.path is not None}
    return manifests.digest_of(
        {
            "version": manifests.VERSION,
            "data": config.data.model_dump(),
            "model": model["digest"],
            "files": {
                path: manifests.fingerprint(Path(path))
                for path in sorted(paths)
                if Path(path).exists()
            },
        }
    )


def _counts(manifest: dict[str, Any]) -> dict[str, Any]:
    keys = (
        "rows kept dropped truncated tokens supervisedTokens packedRows evalRows evalTokens "
        "evalPackedRows digest"
    )
    return {key: manifest[key] for key in keys.split()}


def _summary(model: dict[str, Any]) -> dict[str, Any]:
    keys = ("architecture", "parameters", "contextLength", "digest", "commit")
    return {key: model[key] for key in keys if model.get(key) is not None}


def _processes() -> int:
    return min(_MAX_PROCESSES, len(os.sched_getaffinity(0)))
