"""The model that another job made, from its adapter or from one of its checkpoints.

Weights are put together in fp32 and stored so: a small change survives that rounding to 16 bits
would swallow. ``dtype`` of the model is still that of its base, in which the result is published.
"""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from finetune_trainer import lineage, manifest, shards
from finetune_trainer.config import Method, SourceJob
from finetune_trainer.errors import ModelLoad
from finetune_trainer.manifest import CorruptCheckpointError
from finetune_trainer.model import load_model, load_tokenizer, lora_config
from finetune_trainer.partition import Partition, Piece
from finetune_trainer.prepare import manifest as manifests

log = logging.getLogger(__name__)

URI, CHECKPOINT = "spec.model.uri", "spec.model.checkpoint"


def rebuild(path: Path, job: SourceJob, target: Path) -> dict[str, Any]:
    """Write the model of ``job`` to ``target``; returns what it has of its base: ``dtype``, the
    number format in torch's words, and ``licence``.

    Raises ``ModelLoad`` where files are gone, damaged, or do not fit together.
    """
    base = Path(job.base_path) if job.base_path else path / "model"
    try:
        made_of = manifests.read_manifest(base)
        kept = {"dtype": str(made_of["dtype"]), "licence": made_of.get("licence")}
    except (OSError, ValueError, KeyError) as error:
        raise ModelLoad(
            f"{URI}: the model that job {job.name} was trained from is gone: {error}",
            "its files lie on the claim of its spec.storage; have it publish Merged, which needs "
            "them no longer",
        ) from error
    model = load_model(base, torch.float32)
    if job.kind == "Adapter":
        model = with_adapter(model, path, job.name)
    else:
        model = with_checkpoint(model, path, job)
    model.save_pretrained(target)
    load_tokenizer(base).save_pretrained(target)
    del model
    gc.collect()
    return kept


def with_adapter(base: PreTrainedModel, adapter: Path, name: str) -> PreTrainedModel:
    """``base`` with the adapter in folder ``adapter`` merged into it, as peft does it."""
    from peft import PeftConfig, PeftModel  # seconds of import that few jobs need
    from peft.utils import get_peft_model_state_dict

    file = adapter / "adapter_model.safetensors"
    try:
        with safe_open(file, framework="pt") as saved:
            found = {key: tuple(saved.get_slice(key).get_shape()) for key in saved.keys()}  # noqa: SIM118
        config = PeftConfig.from_pretrained(str(adapter))
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ModelLoad(
            f"{URI}: the adapter of job {name} cannot be read: {error}", "run that job again"
        ) from error
    # By another name peft would ask a hub about its vocabulary, over a network that pods may lack.
    config.base_model_name_or_path = base.name_or_path
    misfit = f"{URI}: the adapter of job {name} does not fit its base"
    try:
        model: Any = PeftModel(base, config)
    except ValueError as error:
        raise ModelLoad(f"{misfit}: {error}") from error
    wanted = {key: tuple(weight.shape) for key, weight in get_peft_model_state_dict(model).items()}
    if wanted != found:
        raise ModelLoad(
            f"{misfit}: {_difference(found, wanted)}",
            "adapter or base was replaced since that job ended; run it again",
        )
    model.load_adapter(str(adapter), "default")
    merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    return merged


def with_checkpoint(base: PreTrainedModel, files: Path, job: SourceJob) -> PreTrainedModel:
    """``base`` with the weights that the job whose ``files`` these are had after a step."""
    folder = _checkpoint(files, job)
    content = manifest.read(folder)
    method = Method.model_validate(content["identity"]["method"])
    made_of = content["identity"].get("model")
    if made_of != manifests.read_manifest(files / "model")["digest"]:
        raise ModelLoad(f"{CHECKPOINT}: step {job.step} of job {job.name} belongs to another model")
    model: Any = base
    if method.lora is not None:
        from peft import get_peft_model

        model = get_peft_model(base, lora_config(method.lora))
    partitions = [
        Partition(weight.data, {}, (Piece(name, 0, weight.numel(), 0),))
        for name, weight in model.named_parameters()
        if weight.requires_grad or method.lora is None
    ]
    try:
        shards.read([folder / name for name in content["files"]], partitions, weights_only=True)
    except KeyError as error:
        raise ModelLoad(
            f"{CHECKPOINT}: step {job.step} of job {job.name} does not fit its model: {error}"
        ) from error
    return base if method.lora is None else model.merge_and_unload(safe_merge=True)


def _checkpoint(files: Path, job: SourceJob) -> Path:
    """The folder of the wanted checkpoint, whole. Raises ``ModelLoad``."""
    attempts = [int(path.name) for path in files.glob("attempts/*") if path.name.isdigit()]
    kept = list(lineage.history(files, max(attempts, default=-1) + 1))
    fault = ""
    for candidate in kept:
        if candidate.step != job.step:
            continue
        try:
            manifest.verify(candidate.path)
        except CorruptCheckpointError as error:
            fault = f"step {job.step} of job {job.name} is damaged: {error}"
            continue
        return candidate.path
    steps = ", ".join(str(step) for step in sorted({candidate.step for candidate in kept}))
    raise ModelLoad(
        f"{CHECKPOINT}: {fault or f'job {job.name} has kept no checkpoint of step {job.step}'}",
        f"it has those of steps {steps}: name one of them"
        if steps
        else "its checkpoints are gone (spec.checkpoint.keep, spec.checkpoint.afterSuccess)",
    )


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    name = next(key for key in (*wanted, *found) if found.get(key) != wanted.get(key))
    if name not in found:
        return f"it lacks {name}"
    if name not in wanted:
        return f"its base has no place for {name}"
    return f"{name} is {list(found[name])} and has to be {list(wanted[name])}"
