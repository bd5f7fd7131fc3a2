"""The numbers of the report, and a few samples as the model sees them.

Nothing here depends on the clock, the machine or the job's name: the same data and settings give
the same report.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase as Tokenizer

from finetune_trainer.config import Data
from finetune_trainer.prepare.cleaning.rejects import Account, totals
from finetune_trainer.prepare.cleaning.rules import MEANINGS
from finetune_trainer.prepare.report.balance import (
    Values,
    by_column,
    by_language,
    by_length,
    by_source,
    read_columns,
)
from finetune_trainer.prepare.report.cautions import cautions
from finetune_trainer.prepare.report.coverage import MAX_PROMPTS, coverage
from finetune_trainer.prepare.report.diversity import clusters, diversity
from finetune_trainer.prepare.report.language import MAX_CHARS, told_apart
from finetune_trainer.prepare.report.rows import Ints, Rows, Side, rows_of, source_of_segments
from finetune_trainer.prepare.report.terms import count_terms
from finetune_trainer.prepare.workers import in_order

VERSION = 3
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MAX_CHARS = 1500
"""Of each sample; the rest is left out."""
_BINS = 24
SAMPLE = 10_000
"""Rows of a fair sample, by which languages and the diversity of answers are told."""
_AT_ONCE = 1000
"""Rows whose languages are told together."""


@dataclass(frozen=True)
class _Words:
    """What is told of the words of a fair sample of rows."""

    diversity: dict[str, Any]
    asked: list[str | None]
    """Languages of the prompts; empty where there are none."""
    answers: list[str | None]
    """Languages of the answers."""


@dataclass(frozen=True)
class Found:
    """What other parts of prepare found out."""

    sequences: int
    """Packed rows."""
    leaked: int
    """Held-out rows that are trained on."""
    general_leaked: int
    """General rows that are."""
    clusters: list[int]
    """Sizes of the groups of near duplicates."""
    plan: dict[str, Any]
    """See ``plan``."""


def report_facts(
    data: Data, tokenizer: Tokenizer, sides: Sequence[Side], found: Found, processes: int = 1
) -> dict[str, Any]:
    """Everything that the report says, as JSON. ``sides``: train, held out and, where the job has
    them, general."""
    train, held = sides[:2]
    facts = _told_of_tokens(data, sides, found)
    rows = rows_of(train)
    columns = read_columns(rows, data.report.columns)
    fair = rows.fair(SAMPLE)
    words = _words(data, rows, fair, processes)
    held_rows = rows_of(held)
    facts |= {
        "plan": found.plan,
        "balance": _balance(data, train, rows, columns, fair, words),
        "terms": count_terms(data.report.terms, rows.texts(data.loss_on), columns)
        if data.report.terms
        else [],
        "diversity": {
            "answers": words.diversity,
            "nearDuplicates": clusters(found.clusters),
            "coverage": coverage(
                train, held, held_rows.numbers[held_rows.fair(MAX_PROMPTS)], processes
            ),
        },
        "samples": list(_samples(train, tokenizer)),
    }
    return facts | {"warnings": cautions(facts)}


def planned_anew(report: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """The report on the same data, of a job that trains otherwise."""
    facts = {key: value for key, value in report.items() if key != "warnings"} | {"plan": plan}
    return facts | {"warnings": cautions(facts)}


def _words(data: Data, rows: Rows, fair: Ints, processes: int) -> _Words:
    """In worker processes, which read the texts themselves."""
    parts = [fair[start : start + _AT_ONCE] for start in range(0, len(fair), _AT_ONCE)]
    languages = told_apart()

    def diverse() -> dict[str, Any]:
        return diversity(rows.texts(data.loss_on, fair))

    def spoken(at: Ints) -> tuple[bool, list[str | None], list[str | None]]:
        texts = rows.texts("Assistant", at)
        heads = [(text.read[:MAX_CHARS], text.learnt[:MAX_CHARS]) for text in texts]
        asked, answers = ([head[n] for head in heads] for n in (0, 1))
        return any(asked), languages(asked), languages(answers)

    tasks: list[Callable[[], Any]] = [diverse, *(partial(spoken, part) for part in parts)]
    facts, *told = in_order(lambda number: tasks[number](), range(len(tasks)), processes)
    has_prompts, asked, answers = zip(*told, strict=True)
    return _Words(
        facts,
        [*itertools.chain.from_iterable(asked)] if any(has_prompts) else [],
        [*itertools.chain.from_iterable(answers)],
    )


def _balance(
    data: Data, train: Side, rows: Rows, columns: list[Values], fair: Ints, words: _Words
) -> list[dict[str, Any]]:
    return [
        by_source(rows, [report.name for report in train.split.reports]),
        *(by_column(rows, values) for values in columns),
        *([by_language("prompts", rows, fair, words.asked)] if words.asked else []),
        by_language("answers", rows, fair, words.answers),
        by_length(rows, data.sequence_length),
    ]


def _told_of_tokens(data: Data, sides: Sequence[Side], found: Found) -> dict[str, Any]:
    train, held, *general = sides
    own = [train, *([held] if data.eval else []), *general]
    accounts = train.split.accounts
    all_accounts = [account for side in own for account in side.split.accounts]
    capacity = found.sequences * data.sequence_length
    tokens = int(train.tokenized.lengths.sum())
    return {
        "version": VERSION,
        "volume": {
            **{key: totals(accounts)[key] for key in ("rows", "changed")},
            "kept": sum(account.kept for account in accounts),
            "notDrawn": sum(account.not_drawn for account in accounts),
            "inEpoch": sum(
                account.kept if account.drawn is None else account.drawn for account in accounts
            ),
            "heldOut": len(np.unique(held.tokenized.samples)),
            "dropped": sum(sum(account.dropped.values()) for account in accounts),
            "tokens": tokens,
            "supervisedTokens": train.tokenized.supervised,
            "evalTokens": int(held.tokenized.lengths.sum()),
            "truncated": train.tokenized.truncated,
            "heldOutRowsInTrain": found.leaked,
            "general": sum(len(np.unique(side.tokenized.samples)) for side in general),
            "generalTokens": sum(int(side.tokenized.lengths.sum()) for side in general),
            "generalRowsInTrain": found.general_leaked,
        },
        "packing": {
            "sequences": found.sequences,
            "sequenceLength": data.sequence_length,
            "efficiency": round(tokens / capacity, 4),
        },
        "rules": [_rule(rule, data, all_accounts) for rule in MEANINGS],
        "sources": [source for side in own for source in _sources(side)],
        "lengths": _lengths(train.tokenized.lengths, held.tokenized.lengths),
    }


def _rule(rule: str, data: Data, accounts: Sequence[Account]) -> dict[str, Any]:
    examples = [place for account in accounts for place in account.examples.get(rule, [])]
    return {
        "rule": rule,
        "meaning": MEANINGS[rule],
        "policy": data.cleaning.policy(rule),
        "dropped": sum(account.dropped[rule] for account in accounts),
        "reported": sum(account.reported[rule] for account in accounts),
        "examples": examples[:3],
    }


def _sources(side: Side) -> Iterator[dict[str, Any]]:
    tokens = np.bincount(
        source_of_segments(side.split, side.tokenized),
        weights=side.tokenized.lengths,
        minlength=len(side.split.accounts),
    )
    for account, report, count in zip(
        side.split.accounts, side.split.reports, tokens.tolist(), strict=True
    ):
        yield {
            "name": report.name,
            **account.summary(),
            "format": report.format,
            "decided": report.decided,
            "tokens": int(count),
        }


def _lengths(train: Ints, held: Ints) -> dict[str, Any]:
    """How many samples have how many tokens, in bins that grow by a constant factor."""
    both = np.concatenate([train, held])
    low, high = int(both.min()), int(both.max()) + 1
    edges = np.unique(np.round(np.geomspace(low, high, _BINS + 1)).astype(np.int64))
    return {
        "edges": edges.tolist(),
        "train": np.histogram(train, edges)[0].tolist(),
        "heldOut": np.histogram(held, edges)[0].tolist(),
        "median": int(np.median(train)),
        "p95": int(np.quantile(train, 0.95)),
        "longest": int(train.max()),
    }


def _samples(side: Side, tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    """Samples from short to long, with the parts that are learnt told apart."""
    tokenized = side.tokenized
    by_length = np.argsort(tokenized.lengths, kind="stable")
    chosen = {int(by_length[int(q * (len(by_length) - 1))]): q for q in _QUANTILES}
    for place, quantile in chosen.items():
        segment = tokenized.segment(place)
        yield {
            "place": side.split.samples[segment.sample]["place"],
            "percentile": round(100 * quantile),
            "tokens": len(segment.input_ids),
            "supervised": int(segment.supervised.sum()),
            "parts": _parts(segment.input_ids, segment.supervised, tokenizer),
        }


def _parts(
    ids: npt.NDArray[np.int32], supervised: npt.NDArray[np.uint8], tokenizer: Tokenizer
) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    room = _MAX_CHARS
    edges = [0, *(np.flatnonzero(np.diff(supervised)) + 1).tolist(), len(ids)]
    for start, end in itertools.pairwise(edges):
        text = tokenizer.decode(ids[start:end].tolist())
        shown = text[:room]
        parts.append({"text": shown, "learnt": bool(supervised[start])})
        room -= len(shown)
        if len(shown) < len(text) or not room:
            parts.append({"text": " …", "learnt": bool(supervised[start])})
            break
    return parts
