"""The stage export: trained weights out, proved by loading them again in plain transformers.

What ``merge`` found to behave like the trained model is published by rename; then it is pushed to
the destinations.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.config import FOLDERS, Form, Lock, RunConfig
from finetune_trainer.errors import StageError
from finetune_trainer.gguf_export.export import export_gguf
from finetune_trainer.gguf_export.write import about
from finetune_trainer.judging import bundle as rating
from finetune_trainer.judging.gate import pass_gate, waits_for_people
from finetune_trainer.judging.paired import TABLE as PAIRED_TABLE
from finetune_trainer.judging.scorers import ScorerWords
from finetune_trainer.judging.table import ANSWERS, PAGE
from finetune_trainer.lock import lock_content, write_lock
from finetune_trainer.merge import merge
from finetune_trainer.model import load_tokenizer, load_trained
from finetune_trainer.model_card import CardFacts, model_card
from finetune_trainer.model_loading import GGUF_FILE
from finetune_trainer.prepare import manifest as manifests
from finetune_trainer.prepare.report import REPORT_JSON, REPORT_PAGE
from finetune_trainer.progress import numbers
from finetune_trainer.published import publish_output, release
from finetune_trainer.smoke_test import smoke_test
from finetune_trainer.stage_attempt import StageAttempt
from finetune_trainer.weight_check import check_learnt, check_weights

log = logging.getLogger(__name__)


def run(
    config: RunConfig,
    workspace: Path,
    output: Path,
    train_attempt: int,
    serving: Path | None = None,
    lock: Lock | None = None,
    scorers: tuple[ScorerWords, ...] = (),
    number: int = 0,
) -> dict[str, Any]:
    """Publish ``output.formats`` of the attempt below ``output``: ``adapter``, ``merged``, and
    ``gguf``.

    Beside ``merged`` lies a copy of ``serving``, the manifest that serves it; ``lock`` is published
    with each. ``scorers``: what the user's programs said of the answers; ``number`` of this attempt
    of export.

    Returns ``artifact``, ``rating`` where people are to compare answers, and the train result's
    ``train``. While the gate waits for people there is no ``artifact``, and nothing but what they
    need is written. Repeating it is harmless. Raises ``StageError`` when the weights are damaged or
    behave differently after the export; ``GateFailed``, before anything is written, when they are
    not good enough; ``PublishRefused`` or ``PublishFailed``, with the result in ``output``, when a
    destination does not take it; ``Preempted`` when a later attempt has begun.
    """
    stage_attempt = StageAttempt(workspace, "export", number, config.job.uid)
    stage_attempt.begin()
    attempt = workspace / "attempts" / str(train_attempt)
    trained = attempt / ("adapter" if config.method.lora else "model")
    if not trained.is_dir():
        raise StageError(f"training attempt {train_attempt} left no weights at {trained.name}")
    check_weights(trained)
    if config.method.lora:
        check_learnt(trained)
    formats = _formats(config)
    base = manifests.read_manifest(workspace / "model")
    data = manifests.read_manifest(workspace / "data")
    result = _train_result(attempt)
    metrics = numbers(result.get("metrics") or {})
    passed = pass_gate(config.gate, metrics, scorers) if config.gate else None
    work = _Work(
        config,
        stage_attempt,
        workspace,
        attempt,
        trained,
        output,
        base,
        data,
        result,
        passed,
        lock,
        scorers,
    )
    bundle = rating.read_bundle(config, attempt)
    waits = waits_for_people(config.gate, bundle.digest if bundle else None)
    output.mkdir(parents=True, exist_ok=True)
    asked = {"rating": bundle.report} if bundle else {}
    if bundle:
        rating.write_key(bundle, attempt / rating.KEY)
        _publish_rating(bundle, work, output / rating.FOLDER)
    if waits:
        return {**asked, "train": work.told["train"]}
    makers = {"Adapter": _adapter, "Merged": _merged, "GGUF": _gguf}
    published = {FOLDERS[form]: _kept(work, form) or makers[form](work) for form in formats}
    artifact = release(stage_attempt, config, output, published, serving)
    if config.checkpoint.after_success == "Delete":
        _delete_checkpoints(workspace)
    return {"artifact": artifact, **asked, **work.told}


@dataclass(frozen=True)
class _Work:
    """What the forms of a result are made from."""

    config: RunConfig
    stage_attempt: StageAttempt
    workspace: Path
    attempt: Path
    trained: Path
    output: Path
    base: dict[str, Any]
    data: dict[str, Any]
    result: dict[str, Any]
    gate: str | None
    lock: Lock | None
    scorers: tuple[ScorerWords, ...] = ()

    @property
    def told(self) -> dict[str, Any]:
        """What the stage says besides the artifact. It stands in the manifests too, for a job that
        takes this result."""
        gate = {"gate": {"message": self.gate}} if self.gate else {}
        result = self.result
        train = {key: result[key] for key in ("metrics", "step", "steps") if key in result}
        return {**gate, "train": train}

    @property
    def found(self) -> dict[str, Any]:
        return {**self.told, "step": self.result.get("keptStep", self.result.get("step"))}

    @property
    def facts(self) -> dict[str, Any]:
        """What the result depends on."""
        return {
            "job": self.config.job.model_dump(),
            "trainAttempt": int(self.attempt.name),
            "model": self.base["digest"],
            "data": self.data["digest"],
        }

    def accompany(self, folder: Path, form: Form) -> None:
        """Card and reports go wherever the model goes."""
        facts = CardFacts(
            self.config,
            self.base,
            self.data,
            self.result,
            self.gate,
            lock_content(self.lock, self.base),
            load_tokenizer(self.workspace / "model").chat_template is not None,
            self.scorers,
        )
        (folder / "README.md").write_text(model_card(facts, form))
        _copy_reports(self.workspace / "data", self.attempt, folder)
        write_lock(folder, self.lock, self.base, self.data)


def _kept(work: _Work, form: Form) -> dict[str, Any] | None:
    """The manifest of what an earlier export of this very result published, if it is whole.

    An export that comes again after a push that failed leaves it to those who read it.
    """
    folder = work.output / FOLDERS[form]
    work.stage_attempt.clear(folder)
    return manifests.reusable(folder, manifests.digest_of(work.facts))


def _adapter(work: _Work) -> dict[str, Any]:
    """Publish the adapter; returns its manifest."""
    target, model = work.output / "adapter", work.workspace / "model"
    folder = work.stage_attempt.scratch(target)
    _copy_adapter(work.trained, folder, work.base)
    _save_tokenizer(model, folder)
    asked = {}
    if "Merged" not in work.config.output.formats:  # else that one is loaded and asked
        check_weights(folder)
        asked = smoke_test(load_trained(model, folder, adapter=True), load_tokenizer(folder))
    work.accompany(folder, "Adapter")
    found = {**work.found, "smokeTest": asked}
    return publish_output(work.stage_attempt, folder, target, work.facts, found)


def _merged(work: _Work) -> dict[str, Any]:
    """Publish the whole model; returns its manifest."""
    target = work.output / "merged"
    folder = work.stage_attempt.scratch(target)
    found = _merge(work, folder)
    work.accompany(folder, "Merged")
    return publish_output(work.stage_attempt, folder, target, work.facts, {**work.found, **found})


def _merge(work: _Work, folder: Path) -> dict[str, Any]:
    end_of_turn = work.data.get("endOfTurn")
    return merge(work.config, work.workspace, work.trained, folder, work.base, end_of_turn)


def _gguf(work: _Work) -> dict[str, Any]:
    """Publish the whole model as one file, made from the merged one; returns its manifest."""
    target, kind = work.output / "gguf", work.config.output.gguf_type
    folder = work.stage_attempt.scratch(target)
    with _whole(work) as (whole, merged):
        difference, asked = export_gguf(
            whole, folder / GGUF_FILE, kind, about(work.config, work.base)
        )
    work.accompany(folder, "GGUF")
    found = {"type": kind, "maxLogitDifference": difference, "smokeTest": asked}
    return publish_output(
        work.stage_attempt, folder, target, work.facts, {**work.found, **merged, **found}
    )


@contextmanager
def _whole(work: _Work) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The merged model, and what merging found: what is published, whose manifest has that, else
    one that is gone afterwards."""
    if "Merged" in work.config.output.formats:
        yield work.output / "merged", {}
        return
    scratch = work.stage_attempt.scratch(work.workspace / "merged")
    try:
        found = _merge(work, scratch)
        yield scratch, found
    finally:
        work.stage_attempt.discard(scratch)


def _delete_checkpoints(workspace: Path) -> None:
    """The result is published, so nobody goes on from them; what cannot be removed harms nobody."""
    for name in ("checkpoints", "parent"):
        for folder in workspace.glob(f"attempts/*/{name}"):
            try:
                shutil.rmtree(folder)
            except OSError as error:
                log.warning("cannot remove %s: %s", folder, error)


def newest_attempt(config: RunConfig, workspace: Path) -> int:
    """The number of the last training attempt that left weights. Raises ``StageError``."""
    weights = "adapter" if config.method.lora else "model"
    numbers = [
        int(folder.parent.name)
        for folder in workspace.glob(f"attempts/*/{weights}")
        if folder.parent.name.isdigit()
    ]
    if not numbers:
        raise StageError("no training attempt left weights to export")
    return max(numbers)


def _formats(config: RunConfig) -> list[Form]:
    """In the order they are made: a GGUF file is made from the merged model. Full fine-tuning has
    no adapter; asking for one alone still yields the model."""
    wanted = set(config.output.formats)
    if config.method.lora is None:
        wanted = wanted - {"Adapter"} or {"Merged"}
    order: tuple[Form, ...] = ("Adapter", "Merged", "GGUF")
    return [form for form in order if form in wanted]


def _train_result(attempt: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads((attempt / "result.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        log.warning("no training result: %s", error)
        return {}
    return result


def _copy_adapter(trained: Path, folder: Path, base: dict[str, Any]) -> None:
    for path in trained.iterdir():
        if path.is_file() and path.suffix in (".safetensors", ".json"):
            shutil.copyfile(path, folder / path.name)
    config_path = folder / "adapter_config.json"
    config = json.loads(config_path.read_text())
    # Training saw a folder of its pod there; a reader needs the model's own name.
    config["base_model_name_or_path"] = base["source"]
    config["revision"] = base.get("commit")
    config_path.write_text(json.dumps(config, indent=2))


def _copy_reports(data: Path, attempt: Path, folder: Path) -> None:
    """The report on the data and the tables of answers and of paired prompts."""
    reports = [(data / name, f"data-{name}") for name in (REPORT_JSON, REPORT_PAGE)]
    tables = [(attempt / name, name) for name in (ANSWERS, PAGE, PAIRED_TABLE)]
    for path, name in [*reports, *tables]:
        # Jobs without answers have none, and data that an older version prepared.
        if path.exists():
            shutil.copyfile(path, folder / name)


def _save_tokenizer(base: Path, folder: Path) -> None:
    load_tokenizer(base).save_pretrained(folder)


def _publish_rating(bundle: rating.Bundle, work: _Work, target: Path) -> None:
    """Once: people may be rating it already."""
    facts = {**work.facts, "bundle": bundle.digest}
    work.stage_attempt.clear(target)
    if manifests.reusable(target, manifests.digest_of(facts)):
        return
    folder = work.stage_attempt.scratch(target)
    rating.write_bundle(bundle, work.config, folder)
    publish_output(work.stage_attempt, folder, target, facts, {})
