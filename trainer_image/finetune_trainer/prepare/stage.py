"""The stage prepare: model → samples → tokens → rows → files, told in the order it happens."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Decoder
from transformers import PreTrainedTokenizerBase as Tokenizer

from finetune_trainer.config import RunConfig
from finetune_trainer.errors import BadData, ConfigInvalid
from finetune_trainer.gguf_export.support import check_support
from finetune_trainer.judging.prompts import PROMPTS, read_prompts, write_prompts
from finetune_trainer.judging.scores import compiled
from finetune_trainer.lock import versions
from finetune_trainer.model import load_tokenizer
from finetune_trainer.prepare import manifest as manifests
from finetune_trainer.prepare.augment import counts, remove_rows
from finetune_trainer.prepare.cleaning.compare import Table
from finetune_trainer.prepare.cleaning.expect import (
    BETTER_TEMPLATE,
    check_broken,
    check_rows,
    check_truncated,
    told,
)
from finetune_trainer.prepare.cleaning.rejects import Ledger, totals
from finetune_trainer.prepare.cleaning.rules import TEMPLATE_REFUSALS
from finetune_trainer.prepare.content import Sides, content_digest, own_digest, times
from finetune_trainer.prepare.mixing import mix
from finetune_trainer.prepare.model import end_of_turn_ids, prepare_model
from finetune_trainer.prepare.pack import one_each, pack, pack_apart
from finetune_trainer.prepare.paired import write_paired
from finetune_trainer.prepare.prompts import held_out_prompts
from finetune_trainer.prepare.report import REPORT_JSON, REPORT_PAGE
from finetune_trainer.prepare.report.facts import Found, planned_anew, report_facts
from finetune_trainer.prepare.report.page import render_page
from finetune_trainer.prepare.report.plan import plan_facts
from finetune_trainer.prepare.report.rows import Side, source_of_segments
from finetune_trainer.prepare.shared import SharedData
from finetune_trainer.prepare.splits import Split, locate_sides, read_sides
from finetune_trainer.prepare.store import PackedDataset, Segment, write_split
from finetune_trainer.prepare.tokenize import (
    Tokenization,
    Tokenized,
    plain_sources,
    tokenize_split,
)
from finetune_trainer.prepare.witnesses import choose_witnesses
from finetune_trainer.prepare.words import counts_of, summary_of
from finetune_trainer.prepare.workers import little_garbage, usable_processes
from finetune_trainer.reuse import published_result
from finetune_trainer.stage_attempt import StageAttempt
from finetune_trainer.steps import planned_steps
from finetune_trainer.witness import decoder_of, mask_fault, write_witnesses

log = logging.getLogger(__name__)

REJECTS = "rejects.jsonl"
FAILED_REJECTS = "prepare-rejects.jsonl"
"""On the volume, where prepare failed and there is no folder ``data`` to hold them."""


def run(
    config: RunConfig,
    workspace: Path,
    augmented: Path | None = None,
    shared: Path | None = None,
    number: int = 0,
) -> dict[str, Any]:
    """Fill ``<workspace>/model`` and ``<workspace>/data``; return ``model``, ``data``, ``steps``.

    ``augmented``: where the training rows came back from ``spec.data.augment``; ``shared``: the
    folder of prepared data that jobs share; ``number`` of this attempt. Repeating it with the same
    input is harmless and quick. Raises ``ModelLoad``, ``BadData`` or ``ConfigInvalid``, each naming
    the field, and ``Preempted`` where a later attempt has begun.
    """
    attempt = StageAttempt(workspace, "prepare", number)
    attempt.begin()
    started = time.monotonic()
    wish = config.evaluation.generation
    if wish and wish.regex:
        compiled(wish.regex)
    model = prepare_model(config.model, workspace, attempt)
    _check_length(config, model)
    _check_packing(config, model)
    if "GGUF" in config.output.formats:
        check_support(workspace / "model", model["architecture"])
    data = prepare_data(config, workspace, model, augmented, shared, attempt)
    if augmented is not None:
        remove_rows(augmented)
    if wish:
        read_prompts(workspace / "data" / "eval", wish, model["contextLength"])
    steps = planned_steps(config, data["packedRows"])
    log.info("prepared in %.1f s: %d steps", time.monotonic() - started, steps)
    told = {
        "model": summary_of(config, model),
        "data": data,
        "steps": steps,
        "versions": versions(config),
    }
    found = published_result(config.output.published_path)
    return told | ({"published": found} if found else {})


@little_garbage()
def prepare_data(
    config: RunConfig,
    workspace: Path,
    model: dict[str, Any],
    augmented: Path | None = None,
    shared: Path | None = None,
    attempt: StageAttempt | None = None,
) -> dict[str, Any]:
    """Make ``<workspace>/data`` and return its counts; an earlier equal result is kept, and one of
    another job is taken. ``attempt`` of prepare; None: the only one."""
    attempt = attempt or StageAttempt(workspace, "prepare")
    folder = workspace / "data"
    input_digest = own_digest(config, model, augmented)
    attempt.clear(folder)
    if kept := manifests.reusable(folder, input_digest):
        log.info("the data is there already: %s", kept["digest"])
        return counts_of(kept)
    scratch = attempt.scratch(workspace / "data-source")
    temporary = attempt.scratch(folder)
    sides = locate_sides(config.data, scratch, augmented)
    entries, seen = SharedData(shared) if shared else None, times(sides)
    key = content_digest(config, model, sides, augmented) if entries else ""
    taken = entries.take(key, temporary) if entries else None
    if taken is None:
        facts = _made(config, model, workspace, scratch, temporary, sides, augmented, attempt)
        facts["model"] = model["digest"]
    else:
        facts = _taken(config, model, temporary, taken)
    manifest = manifests.seal(temporary, input_digest, facts, apart=(REPORT_JSON, REPORT_PAGE))
    attempt.publish(temporary, folder)
    (workspace / FAILED_REJECTS).unlink(missing_ok=True)
    if entries and taken is None and times(sides) == seen:
        entries.keep(key, folder, (REPORT_PAGE,), {**facts, "preparedBy": config.job.name})
    attempt.discard(scratch)
    return counts_of(manifest)


def _taken(
    config: RunConfig, model: dict[str, Any], folder: Path, facts: dict[str, Any]
) -> dict[str, Any]:
    """What the manifest says of data that another job prepared; only what training will take is
    told anew."""
    log.info("took the data of %s: same model, rows and settings", facts["preparedBy"])
    report = json.loads((folder / REPORT_JSON).read_text())
    report = planned_anew(report, _plan(config, model, facts))
    _write_report(folder, report)
    return {**facts, "warnings": report["warnings"]}


def _made(
    config: RunConfig,
    model: dict[str, Any],
    workspace: Path,
    scratch: Path,
    folder: Path,
    sides: Sides,
    augmented: Path | None,
    attempt: StageAttempt,
) -> dict[str, Any]:
    """Make the data in ``folder``; if that fails, the list of rejected rows stays."""
    ledger = Ledger(folder / REJECTS, config.data.cleaning)
    try:
        return _make_data(
            config, model, workspace / "model", scratch, folder, ledger, sides, augmented
        )
    except BadData as error:
        attempt.give_way()
        raise _with_rejects(error, ledger, workspace / FAILED_REJECTS) from error
    finally:
        ledger.close()


def _with_rejects(error: BadData, ledger: Ledger, path: Path) -> BadData:
    """The error, with a word on where its rows are listed: they matter now more than ever."""
    ledger.close()
    if not ledger.path.stat().st_size:
        return error
    ledger.path.replace(path)
    hint = f"{error.hint}; " if error.hint else ""
    return BadData(error.message, f"{hint}dropped and reported rows: {path.name} on the claim")


def _make_data(
    config: RunConfig,
    model: dict[str, Any],
    weights: Path,
    scratch: Path,
    folder: Path,
    ledger: Ledger,
    located: Sides,
    augmented: Path | None,
) -> dict[str, Any]:
    """Fill ``folder``; returns what the manifest says of it."""
    tokenizer, decoder = load_tokenizer(weights), decoder_of(weights)
    end_of_turn = end_of_turn_ids(weights)
    sides = read_sides(config.data, located, scratch, ledger)
    train, held = sides.train, sides.held
    facts: dict[str, Any] = {}
    done: list[Side] = []
    for split in (train, held, *([sides.general] if sides.general else [])):
        _check_template(split, tokenizer)
        tokenization = Tokenization(
            tokenizer,
            config.data,
            plain_sources(tokenizer, split.reports),
            end_of_turn,
            model["vocabularySize"],
        )
        tokenized = tokenize_split(
            split.samples,
            tokenization,
            [source.field for source in split.sources],
            scratch / split.name,
            usable_processes(),
        )
        table = _book(split, tokenized, ledger)
        for account in split.accounts:
            check_broken(account, config.data.expect.max_broken_fraction)
        if split is train:
            tokenized = _mixed(split, table, tokenized, config.training.seed)
        facts |= _write(config, folder, split, tokenized, tokenization, decoder)
        if split is held:
            prompts = held_out_prompts(split, tokenized, tokenization, config.data.sequence_length)
            write_prompts(folder / split.name / PROMPTS, prompts)
        done.append(Side(split, tokenized))
    if wish := config.evaluation.paired_prompts:
        write_paired(wish, config.data, tokenizer, end_of_turn, folder)
    check_rows(config.data.expect, train.accounts)
    check_truncated(config.data.expect, facts["truncated"], facts["kept"])
    read = sum(account.read for account in train.accounts)
    own_eval = bool(config.data.eval)
    general = sides.general
    accounts = [
        *train.accounts,
        *(held.accounts if own_eval else []),
        *(general.accounts if general else []),
    ]
    for account in accounts:
        account.check()
    plan = _plan(config, model, facts)
    found = Found(facts["packedRows"], sides.leaked, sides.general_leaked, sides.clusters, plan)
    report = report_facts(config.data, tokenizer, done, found, usable_processes())
    _write_report(folder, report)
    return {
        **facts,
        **totals(train.accounts),
        "rowsInTrainAndEval": sides.leaked,
        "rowsInTrainAndGeneral": sides.general_leaked,
        "sequenceLength": config.data.sequence_length,
        "sources": [asdict(report) for report in train.reports],
        "evalSources": [asdict(report) for report in held.reports] if own_eval else [],
        "generalSources": [asdict(report) for report in general.reports] if general else [],
        **({"augment": counts(config.data, augmented, read)} if augmented else {}),
        "accounts": [account.summary() for account in accounts],
        "warnings": report["warnings"],
    }


def _plan(config: RunConfig, model: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    scored = facts["evalTokens"] + facts.get("generalTokens", 0)
    return plan_facts(config, model["parameters"], facts["packedRows"], facts["tokens"], scored)


def _write_report(folder: Path, report: dict[str, Any]) -> None:
    (folder / REPORT_JSON).write_text(json.dumps(report, indent=1))
    (folder / REPORT_PAGE).write_text(render_page(report), encoding="utf-8")


def _book(split: Split, tokenized: Tokenized, ledger: Ledger) -> Table:
    """Account for every sample of a split: kept, or left out under a rule of the tokenization."""
    table = Table(split.samples, split.accounts, ledger)
    for rule in dict.fromkeys(rule for _, rule, _ in tokenized.dropped):
        table.apply(rule, ((row, why) for row, of, why in tokenized.dropped if of == rule))
    for number, account in enumerate(split.accounts):
        count = int((table.alive & (table.source == number)).sum())
        if split.name == "eval" and not account.field.startswith("spec.data.eval"):
            account.held_out = count
        else:
            account.kept = count
    return table


def _mixed(split: Split, table: Table, tokenized: Tokenized, seed: int) -> Tokenized:
    """The rows of an epoch, where the sources have weights."""
    weights = [Fraction(source.weight) for source in split.sources if source.weight is not None]
    if not weights or not len(tokenized.samples):
        return tokenized
    for source, account in zip(split.sources, split.accounts, strict=True):
        if not account.kept:
            raise BadData(
                f"{source.field}.weight: no row of this source is left to draw from "
                f"({told([account]) or 'all are held out'})",
                "correct its rows, or remove the source",
            )
    tokenized, shares = mix(tokenized, table.source, table.column("key"), weights, seed)
    for account, share in zip(split.accounts, shares, strict=True):
        account.kept, account.drawn = share.different, share.drawn
        account.not_drawn = share.rows - share.different
    return tokenized


def _check_template(split: Split, tokenizer: Tokenizer) -> None:
    for source, report in zip(split.sources, split.reports, strict=True):
        if report.format == "Chat" and not tokenizer.chat_template:
            raise BadData(
                f"spec.model.chatTemplate: the model has no chat template, and {source.field} "
                f"holds conversations",
                "put a Jinja template into a ConfigMap and name it there",
            )


def _write(
    config: RunConfig,
    folder: Path,
    split: Split,
    tokenized: Tokenized,
    tokenization: Tokenization,
    decoder: Decoder,
) -> dict[str, Any]:
    """Pack and write one split; returns its counts under the names of the result."""
    isolated = config.data.packing == "Isolated"
    lengths, longest = tokenized.lengths, config.data.sequence_length
    scored = split.name != "train"  # each source by itself
    sources = source_of_segments(split, tokenized).tolist() if scored else None
    if not isolated:
        rows = one_each(lengths)
    elif sources is None:
        rows = pack(lengths, longest)
    else:
        rows = pack_apart(lengths, sources, longest)
    of_rows = None if sources is None else [sources[row[0]] for row in rows]
    tokens = int(lengths.sum())
    write_split(folder / split.name, _segments(tokenized, rows), tokens, of_rows)
    kept = len(np.unique(tokenized.samples))
    log.info("%s: %d of %d samples in %d rows", split.name, kept, len(split.samples), len(rows))
    # A share that is held out of the training rows may be none.
    if not rows and split.sources[0].field.startswith(f"spec.data.{split.name}"):
        raise BadData(
            f"{split.sources[0].field}: no row is left to {'score' if scored else 'train on'} "
            f"({told(split.accounts) or 'no rows'})",
            BETTER_TEMPLATE
            if any(account.dropped[TEMPLATE_REFUSALS] for account in split.accounts)
            else "every row needs an answer that begins within spec.data.sequenceLength",
        )
    if scored:
        return {
            f"{split.name}Rows": kept,
            f"{split.name}Tokens": tokens,
            f"{split.name}PackedRows": len(rows),
        }
    written = PackedDataset(folder / split.name)
    witnesses = choose_witnesses(split, tokenized, rows, tokenization, decoder)
    if fault := mask_fault(written, witnesses, decoder):
        raise BadData(
            f"spec.model.chatTemplate: {fault}",
            "mark the answers with {% generation %} in a template of your own",
        )
    write_witnesses(folder / split.name, witnesses)
    return {
        "kept": kept,
        "tokens": tokens,
        "supervisedTokens": tokenized.supervised,
        "packedRows": len(rows),
        "longestRow": int(written.row_lengths.max()),
        "mostSupervised": int(written.num_supervised.max()),
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


def _check_packing(config: RunConfig, model: dict[str, Any]) -> None:
    reason = model.get("mixesSamples")
    if config.data.packing == "Isolated" and reason is not None:
        raise ConfigInvalid(
            f"spec.data.packing: packed samples would see each other in {model['architecture']}: "
            f"{reason}",
            'set spec.data.packing to "None" for this model',
        )
