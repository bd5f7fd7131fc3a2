"""The model of a job as safetensors on the volume, whatever form it came in.

Only safetensors and GGUF are read: other weight files are pickles, and a pickle is a program. Code
that a repository brings along is never run.
"""

from __future__ import annotations

import gc
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from finetune_trainer.config import ModelSource
from finetune_trainer.errors import ModelLoad, first_line
from finetune_trainer.lock import LOCK
from finetune_trainer.model import load_tokenizer
from finetune_trainer.object_store import UNFINISHED, BucketError
from finetune_trainer.prepare import manifest as manifests
from finetune_trainer.prepare import s3
from finetune_trainer.prepare.ancestor import rebuild
from finetune_trainer.prepare.hub import HubError, fetch
from finetune_trainer.prepare.licence import licence, read_card
from finetune_trainer.prepare.packable import mixes_samples
from finetune_trainer.prepare.report import REPORT_JSON
from finetune_trainer.prepare.shape import shape_of
from finetune_trainer.stage_attempt import StageAttempt

log = logging.getLogger(__name__)

FIELD = "spec.model"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_COMPANIONS = (".json", ".model", ".txt", ".jinja", ".tiktoken")
_REPORTS = (manifests.MANIFEST, LOCK, f"data-{REPORT_JSON}")
"""What a job publishes beside its model tells of that job, and is no part of the model."""


def prepare_model(
    source: ModelSource, workspace: Path, attempt: StageAttempt | None = None
) -> dict[str, Any]:
    """Make ``<workspace>/model`` from ``source`` and return its manifest. ``attempt`` of prepare;
    None: the only one.

    An earlier result for the same source is kept. Raises ``ModelLoad``, naming the field.
    """
    attempt = attempt or StageAttempt(workspace, "prepare")
    folder = workspace / "model"
    input_digest = _input_digest(source)
    job = source.job
    attempt.clear(folder)
    if kept := manifests.reusable(folder, input_digest):
        log.info("the model is there already: %s", kept["digest"])
        return kept
    temporary = attempt.scratch(folder)
    scratch = attempt.scratch(workspace / "model-source")
    commit: str | None = None
    told: dict[str, Any] = {}
    if job is not None and job.kind != "Merged":
        told |= rebuild(Path(source.path or ""), job, temporary)
    else:
        origin, commit, card = _locate(source, scratch)
        told["licence"] = licence(card)
        if origin.suffix == ".gguf":
            _convert_gguf(origin, temporary)
        else:
            _copy_safetensors(origin, temporary)
    if job is not None:
        told["lineage"] = job.lineage
    _set_chat_template(source, temporary)
    facts = _facts(temporary) | told
    manifest = manifests.seal(
        temporary,
        input_digest,
        {"source": _name(source), "commit": commit, **facts},
    )
    attempt.publish(temporary, folder)
    attempt.discard(scratch)
    log.info("model ready: %s, %d parameters", facts["architecture"], facts["parameters"])
    return manifest


def _input_digest(source: ModelSource) -> str:
    content: dict[str, Any] = {"version": manifests.VERSION, **source.model_dump()}
    job = source.job
    # All files of a job are too many to look at, and its checkpoints never change.
    places = (None if job and job.kind == "Checkpoint" else source.path, source.chat_template_path)
    for path in (*places, job.base_path if job else None):
        if path is not None and Path(path).exists():
            content[path] = manifests.fingerprint(Path(path))
    return manifests.digest_of(content)


def _name(source: ModelSource) -> str:
    if source.job:
        step = f"@{source.job.step}" if source.job.step is not None else ""
        return f"job://{source.job.name}{step}"
    place = source.hub.repository if source.hub else Path(source.path or "").name
    if source.s3:
        place = source.s3.uri
    return f"{place}/{source.file}" if source.file else place


def _locate(source: ModelSource, scratch: Path) -> tuple[Path, str | None, dict[str, Any]]:
    """The GGUF file or the folder with safetensors, the commit if it came from a hub, and the front
    matter of its README.md."""
    if source.hub is not None:
        try:
            fetched = fetch(source.hub, "model", lambda names, _: _wanted(source, names), scratch)
        except HubError as error:
            raise ModelLoad(f"{FIELD}.uri: {error}", error.hint) from error
        folder = fetched.folder
        return (folder / source.file if source.file else folder), fetched.commit, fetched.card
    path = Path(source.path or "") if source.s3 is None else _from_bucket(source, scratch)
    if not path.exists():
        raise ModelLoad(f"{FIELD}.uri: nothing at {path.name}", "check the path in the uri")
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelLoad(
                f"{FIELD}.uri: {path.name} is one file, and only .gguf models are",
                "name the folder that holds config.json and the safetensors files",
            )
        return path, None, read_card(path.parent)
    names = [str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()]
    wanted = _wanted(source, names)
    ggufs = [name for name in wanted if name.endswith(".gguf")]
    return (path / ggufs[0] if ggufs else path), None, read_card(path)


def _from_bucket(source: ModelSource, scratch: Path) -> Path:
    """The folder or the GGUF file, loaded below ``scratch``."""
    assert source.s3 is not None  # noqa: S101 - the caller looked

    def wanted(names: list[str]) -> list[str]:
        beside = [name for name in (manifests.MANIFEST, "README.md") if name in names]
        return [*beside, *(name for name in _wanted(source, names) if name not in beside)]

    try:
        fetched = s3.fetch(source.s3, wanted, scratch)
    except BucketError as error:
        raise ModelLoad(f"{FIELD}.uri: {error}", error.hint) from error
    if _unfinished(scratch):
        raise ModelLoad(
            f"{FIELD}.uri: what lies at {source.s3.uri} is not whole: a push goes on or broke off",
            "wait for the job that publishes it, or let it publish again",
        )
    alone = fetched.files == [Path(source.s3.key).name]
    return scratch / fetched.files[0] if alone else scratch


def _unfinished(folder: Path) -> bool:
    """Whether a push to the bucket has not come to its end; see ``object_store``."""
    try:
        found = manifests.read_manifest(folder)
    except (OSError, ValueError):
        return False  # no result of ours
    return isinstance(found, dict) and UNFINISHED in found


def _wanted(source: ModelSource, names: list[str]) -> list[str]:
    """The files of a folder or repository that make the model. Raises ``ModelLoad``."""
    if source.file is not None:
        if source.file not in names:
            raise ModelLoad(f"{FIELD}.file: {source.file} is not there", _some(names))
        if not source.file.endswith(".gguf"):
            raise ModelLoad(
                f"{FIELD}.file: {source.file} is no .gguf file",
                "file is for single-file models; leave it out for a safetensors folder",
            )
        return [source.file]
    top = [name for name in names if "/" not in name]
    ggufs = [name for name in top if name.endswith(".gguf")]
    weights = [name for name in top if name.endswith(".safetensors")]
    if not weights and ggufs:
        if len(ggufs) > 1:
            raise ModelLoad(f"{FIELD}.file: which of several GGUF files?", _some(ggufs))
        return ggufs
    if not weights:
        pickles = [name for name in top if name.endswith(_PICKLES)]
        if pickles:
            raise ModelLoad(
                f"{FIELD}.uri: the weights are pickled ({pickles[0]}), and a pickle is a program; "
                "only safetensors and GGUF are loaded",
                "convert them once with save_pretrained(), or choose a revision with safetensors",
            )
        raise ModelLoad(f"{FIELD}.uri: no safetensors or GGUF file in there", _some(names))
    if "config.json" not in top:
        raise ModelLoad(f"{FIELD}.uri: there are weights but no config.json", _some(names))
    companions = [name for name in top if name.endswith(_COMPANIONS) and name not in _REPORTS]
    return sorted(weights + companions)


def _copy_safetensors(origin: Path, target: Path) -> None:
    names = [p.name for p in origin.iterdir() if p.is_file()]
    for name in _wanted(ModelSource(path=str(origin)), names):
        shutil.copyfile(origin / name, target / name)
    _check_weights(target)


def _check_weights(folder: Path) -> None:
    """Every shard of the index is there and each file is whole (its header tells its size)."""
    shards = {path.name for path in folder.glob("*.safetensors")}
    for index in folder.glob("*.safetensors.index.json"):
        missing = sorted(set(json.loads(index.read_text())["weight_map"].values()) - shards)
        if missing:
            raise ModelLoad(f"{FIELD}.uri: {missing[0]} of {index.name} is not there")
    for name in sorted(shards):
        try:
            with safe_open(folder / name, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise ModelLoad(
                f"{FIELD}.uri: {name} is no whole safetensors file: {error}", "copy it again"
            ) from error


def _convert_gguf(file: Path, target: Path) -> None:
    """Unpack a quantised GGUF file to fp32 safetensors, with tokenizer and chat template."""
    log.info("converting %s to safetensors", file.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            # Without it the weights stay packed, or the model refuses to be saved.
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        raise ModelLoad(
            f"{FIELD}.uri: {file.name} cannot be converted: {first_line(error)}",
            "its architecture must be one that transformers reads from GGUF",
        ) from error
    packed = [name for name, weight in model.named_parameters() if not weight.is_floating_point()]
    if packed:
        raise ModelLoad(f"{FIELD}.uri: {packed[0]} stayed quantised and cannot be trained")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    del model
    gc.collect()


def _set_chat_template(source: ModelSource, folder: Path) -> None:
    if source.chat_template_path is None:
        return
    path = Path(source.chat_template_path)
    try:
        template = path.read_text()
    except OSError as error:
        raise ModelLoad(
            f"{FIELD}.chatTemplate: cannot be read: {error.strerror}",
            "check the ConfigMap and its key",
        ) from error
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def _facts(folder: Path) -> dict[str, Any]:
    """What the rest of the job needs to know: built without memory for the weights."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelLoad(
            f"{FIELD}.uri: config.json cannot be used: {first_line(error)}",
            "the architecture must be one that transformers knows; code from repositories is "
            "never run",
        ) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelLoad(
            f"{FIELD}.uri: {config.model_type} models are no causal language models",
            "choose a text generation model",
        )
    if quantised := getattr(config, "quantization_config", None):
        method = dict(quantised).get("quant_method", "some method")
        raise ModelLoad(
            f"{FIELD}.uri: the weights are quantised ({method}) and cannot be trained",
            "take the model that they were made from, or a GGUF file, which is unpacked first",
        )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, trust_remote_code=False
        )
    load_tokenizer(folder)
    return {
        "architecture": type(model).__name__,
        "modelType": config.model_type,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "contextLength": getattr(config, "max_position_embeddings", None),
        "vocabularySize": config.vocab_size,
        "shape": shape_of(model),
        "mixesSamples": mixes_samples(model),
        "dtype": str(config.dtype or torch.float32).removeprefix("torch."),
    }


def end_of_turn_ids(folder: Path) -> tuple[int, ...]:
    """Ids that the model's generation configuration stops at; empty where it has none."""
    try:
        eos = GenerationConfig.from_pretrained(folder).eos_token_id
    except OSError:
        return ()
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, list) else (eos,)


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:8]) or "nothing"
    return f"there is {shown}{', …' if len(names) > 8 else ''}"
