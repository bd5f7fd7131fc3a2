"""The stage export: trained weights out, proved by loading them again in plain transformers.

The result is compared with what was trained (base model plus adapter, or the full weights) on a
few prompts; it is published by rename only after that.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import jinja2
import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from finetune_trainer.config import RunConfig
from finetune_trainer.errors import ModelLoad, StageError
from finetune_trainer.judging import bundle as rating
from finetune_trainer.judging.gate import pass_gate, waits_for_people
from finetune_trainer.judging.questions import stop_tokens
from finetune_trainer.judging.table import ANSWERS, PAGE
from finetune_trainer.model import load_model, load_tokenizer, prompt_ids
from finetune_trainer.model_card import model_card
from finetune_trainer.prepare import manifest as manifests
from finetune_trainer.prepare.report import REPORT_JSON, REPORT_PAGE
from finetune_trainer.weight_check import check_weights

log = logging.getLogger(__name__)

MAX_LOGIT_DIFFERENCE = 1e-3
"""For weights stored as fp32. Rounding to 16 bits moves logits by more: see ``_limit``."""
_HALF_SHARE = 0.05
_PROMPTS = (
    "What can you help me with?",
    "Explain in one sentence what a checkpoint is.",
    "List three colours.",
)


class ExportMismatchError(StageError):
    """The exported weights do not behave like the trained ones."""


def run(config: RunConfig, workspace: Path, output: Path, train_attempt: int) -> dict[str, Any]:
    """Publish ``output.formats`` of the attempt below ``output``: ``adapter`` and/or ``merged``.

    Returns ``artifact``, ``rating`` where people are to compare answers, and the train result's
    ``train``. While the gate waits for people there is no ``artifact``, and nothing but what they
    need is written. Repeating it is harmless. Raises ``StageError`` when the weights are damaged or
    behave differently after the export, and ``GateFailed``, before anything is written, when they
    are not good enough.
    """
    attempt = workspace / "attempts" / str(train_attempt)
    trained = attempt / ("adapter" if config.method.lora else "model")
    if not trained.is_dir():
        raise StageError(f"training attempt {train_attempt} left no weights at {trained.name}")
    check_weights(trained)
    formats = _formats(config)
    base = manifests.read_manifest(workspace / "model")
    data = manifests.read_manifest(workspace / "data")
    result = _train_result(attempt)
    passed = pass_gate(config.gate, result.get("metrics") or {}) if config.gate else None
    train = {key: result[key] for key in ("metrics", "step", "steps") if key in result}
    facts = {
        "job": config.job.model_dump(),
        "trainAttempt": train_attempt,
        "model": base["digest"],
        "data": data["digest"],
    }
    bundle = rating.read_bundle(config, attempt)
    asked = {"rating": bundle.report} if bundle else {}
    waits = waits_for_people(config.gate, bundle.digest if bundle else None)
    published: dict[str, dict[str, Any]] = {}
    difference = 0.0
    output.mkdir(parents=True, exist_ok=True)
    if bundle:
        rating.write_key(bundle, attempt / rating.KEY)
        _publish_rating(bundle, config, output / rating.FOLDER, facts)
    if waits:
        return {**asked, "train": train}
    card = model_card(config, base, data, result)
    if "Adapter" in formats:
        folder = manifests.fresh_sibling(output / "adapter", config.job.uid)
        _copy_adapter(trained, folder, base)
        _save_tokenizer(workspace / "model", folder)
        (folder / "README.md").write_text(card)
        _copy_reports(workspace / "data", attempt, folder)
        published["adapter"] = _publish(folder, output / "adapter", facts)
    if "Merged" in formats:
        folder = manifests.fresh_sibling(output / "merged", config.job.uid)
        difference = _merge(config, workspace, trained, folder, base, data.get("endOfTurn"))
        (folder / "README.md").write_text(card)
        _copy_reports(workspace / "data", attempt, folder)
        published["merged"] = _publish(
            folder, output / "merged", {**facts, "maxLogitDifference": difference}
        )
    if config.checkpoint.after_success == "Delete":
        _delete_checkpoints(workspace)
    files = [entry for manifest in published.values() for entry in manifest["files"].values()]
    return {
        "artifact": {
            "formats": formats,
            "digest": manifests.digest_of({name: m["digest"] for name, m in published.items()}),
            "bytes": sum(entry["bytes"] for entry in files),
            "maxLogitDifference": difference,
            **({"step": step} if (step := result.get("keptStep", result.get("step"))) else {}),
        },
        **({"gate": {"message": passed}} if passed else {}),
        **asked,
        "train": train,
    }


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


def _formats(config: RunConfig) -> list[str]:
    """Full fine-tuning has no adapter; asking for one alone still yields the model."""
    formats = [str(name) for name in config.output.formats]
    if config.method.lora is None:
        return ["Merged"]
    return formats


def _train_result(attempt: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads((attempt / "result.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        log.warning("no training result: %s", error)
        return {}
    return result


def _merge(
    config: RunConfig,
    workspace: Path,
    trained: Path,
    folder: Path,
    base: dict[str, Any],
    end_of_turn: int | None,
) -> float:
    """Write the merged model to ``folder``; returns the largest logit difference after reload."""
    tokenizer = load_tokenizer(workspace / "model")
    model = load_trained(workspace / "model", trained, adapter=config.method.lora is not None)
    prompts = [_prompt(tokenizer, text) for text in _PROMPTS]
    expected = _logits(model, prompts)
    if isinstance(model, PeftModel):
        model = model.merge_and_unload(safe_merge=True)
    dtype = getattr(torch, base["dtype"])
    _set_stop_tokens(model, workspace / "model", tokenizer, end_of_turn)
    model.to(dtype).save_pretrained(folder)
    _save_tokenizer(workspace / "model", folder)
    del model
    gc.collect()

    check_weights(folder)
    reloaded = load_model(folder, torch.float32)
    difference = max(
        float((one - other).abs().max())
        for one, other in zip(expected, _logits(reloaded, prompts), strict=True)
    )
    limit = _limit(dtype, expected)
    log.info("largest logit difference after reload: %.2e (limit %.2e)", difference, limit)
    # Not "difference > limit": NaN must fail as well.
    if not difference <= limit:
        raise ExportMismatchError(
            f"the merged model's logits differ by {difference:.3g} from the trained ones "
            f"(limit {limit:.3g})",
            "the trained weights stay in the attempt's folder; report this as a bug",
        )
    _check_tokenizer(folder, tokenizer, end_of_turn, reloaded)
    return difference


def load_trained(base: Path, trained: Path, adapter: bool) -> PreTrainedModel | PeftModel:
    """The model as training left it, fp32, ready for inference."""
    if not adapter:
        if not (trained / "config.json").exists():
            raise ModelLoad(f"{trained.name} holds no config.json")
        return load_model(trained, torch.float32)
    # Not trainable, and so already in evaluation mode.
    model: PeftModel = PeftModel.from_pretrained(load_model(base, torch.float32), str(trained))
    return model


def _prompt(tokenizer: Tokenizer, text: str) -> torch.Tensor:
    """int64 [1, T]: a user's message as in training, or the bare text if the template refuses."""
    try:
        ids = prompt_ids(tokenizer, [{"role": "user", "content": text}])
    except jinja2.TemplateError:
        ids = list(tokenizer.encode(text))
    return torch.tensor([ids])


def _logits(model: PreTrainedModel | PeftModel, prompts: list[torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model(input_ids=ids, use_cache=False).logits.float() for ids in prompts]


def _limit(dtype: torch.dtype, logits: list[torch.Tensor]) -> float:
    if dtype == torch.float32:
        return MAX_LOGIT_DIFFERENCE
    return _HALF_SHARE * max(float(one.max() - one.min()) for one in logits)


def _set_stop_tokens(
    model: PreTrainedModel, base: Path, tokenizer: Tokenizer, end_of_turn: int | None
) -> None:
    """The generation configuration stops where the training data did."""
    config = model.generation_config or GenerationConfig()  # type: ignore[no-untyped-call]
    with contextlib.suppress(OSError):
        config = GenerationConfig.from_pretrained(base)
    stops = stop_tokens(config, tokenizer, end_of_turn)
    config.eos_token_id = None if not stops else stops[0] if len(stops) == 1 else stops
    model.generation_config = config


def _check_tokenizer(
    folder: Path, tokenizer: Tokenizer, end_of_turn: int | None, model: PreTrainedModel
) -> None:
    saved = load_tokenizer(folder)
    if saved.chat_template != tokenizer.chat_template:
        raise ExportMismatchError("the exported tokenizer has another chat template")
    stops = model.generation_config.eos_token_id if model.generation_config else None
    stops = stops if isinstance(stops, list) else [stops]
    if end_of_turn == tokenizer.eos_token_id and end_of_turn not in stops:
        raise ExportMismatchError("the exported generation configuration lacks the stop token")


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
    """The report on the data and the table of answers go wherever the model goes."""
    reports = [(data / name, f"data-{name}") for name in (REPORT_JSON, REPORT_PAGE)]
    for path, name in [*reports, *((attempt / name, name) for name in (ANSWERS, PAGE))]:
        # Jobs without answers have none, and data that an older version prepared.
        if path.exists():
            shutil.copyfile(path, folder / name)


def _save_tokenizer(base: Path, folder: Path) -> None:
    load_tokenizer(base).save_pretrained(folder)


def _publish(temporary: Path, target: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Seal and rename. What another job published at this place is moved aside, not deleted."""
    manifest = manifests.seal(temporary, manifests.digest_of(facts), facts)
    if target.exists():
        try:
            owner = manifests.read_manifest(target)["job"]["uid"]
        except (OSError, json.JSONDecodeError, KeyError):
            owner = "unknown"
        if owner != facts["job"]["uid"]:
            aside = _free_name(target.with_name(f"{target.name}.replaced-{owner[:8]}"))
            log.warning("%s holds another job's output; moved to %s", target, aside.name)
            target.rename(aside)
    manifests.publish(temporary, target)
    return manifest


def _publish_rating(
    bundle: rating.Bundle, config: RunConfig, target: Path, facts: dict[str, Any]
) -> None:
    """Once: people may be rating it already."""
    facts = {**facts, "bundle": bundle.digest}
    if manifests.reusable(target, manifests.digest_of(facts)):
        return
    folder = manifests.fresh_sibling(target, config.job.uid)
    rating.write_bundle(bundle, config, folder)
    _publish(folder, target, facts)


def _free_name(path: Path) -> Path:
    candidates = [path, *(path.with_name(f"{path.name}-{n}") for n in range(1, 1000))]
    return next(candidate for candidate in candidates if not candidate.exists())
