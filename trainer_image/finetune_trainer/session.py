"""A rank's work once torch is there: join, load, resume, train, save."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune_trainer import collectives, lean_imports, neftune, shards
from finetune_trainer import engine as engines
from finetune_trainer import gang as gangs
from finetune_trainer.account import steps_done_before
from finetune_trainer.batches import PackedRows
from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.config import RunConfig
from finetune_trainer.engine import Engine
from finetune_trainer.errors import BadData, ConfigInvalid, StageError
from finetune_trainer.judging.datasets import open_scored
from finetune_trainer.judging.paired import open_paired
from finetune_trainer.loop import Loop, result_of
from finetune_trainer.patience import LONG
from finetune_trainer.progress import told
from finetune_trainer.reporter import Reporter
from finetune_trainer.self_test import self_test
from finetune_trainer.shutdown import Shutdown
from finetune_trainer.state import TrainState
from finetune_trainer.weights import save_weights
from finetune_trainer.zero_config import (
    BUCKET_ELEMENTS,
    DTYPES,
    Precision,
    deepspeed_config,
    effective_stage,
    resolve_precision,
)

if TYPE_CHECKING:
    from finetune_trainer.rank import Rank

RENDEZVOUS_SECONDS = 600.0
COLLECTIVE_SECONDS = 600.0

log = logging.getLogger(__name__)


def train(rank: Rank, shutdown: Shutdown) -> dict[str, Any]:
    """Train the job to its end. Returns the final numbers (on rank 0; elsewhere none)."""
    config, env = rank.config, rank.env
    log.info("torch %s is loaded", torch.__version__)
    # FINETUNE_DEVICE overrules the job: it trains on the CPU where GPUs are only advertised.
    wanted = env.get("FINETUNE_DEVICE", config.workers.device)
    reporter = Reporter(
        rank=rank.place.rank,
        folder=rank.folder,
        metrics=rank.metrics,
        progress=rank.progress,
        heartbeat=rank.heartbeat,
        account=rank.account,
        started_at=rank.started_at,
    )
    # A rank that hangs is named by the launcher before its peers would give up waiting for it.
    limit = max(COLLECTIVE_SECONDS, 2 * LONG * config.recovery.hang_after_seconds)
    device = pick_device(wanted, rank.place.local_rank)
    if config.method.quantized and device.type == "cpu":
        raise ConfigInvalid(
            "spec.method.lora.quantization: 4-bit weights need a GPU, and this rank trains on the "
            "CPU",
            hint="remove it, or set spec.workers.gpusPerWorker",
        )
    gang = gangs.join(
        rank.place,
        device,
        rendezvous_seconds=float(env.get("FINETUNE_RENDEZVOUS_SECONDS", RENDEZVOUS_SECONDS)),
        collective_seconds=float(env.get("FINETUNE_COLLECTIVE_SECONDS", limit)),
    )
    log.info("all %d ranks have met", rank.place.world_size)
    reporter.heartbeat.met(0)
    if "FINETUNE_COLLECTIVES" in env:  # of its launcher
        collectives.tell(Path(env["FINETUNE_COLLECTIVES"]), gang.collectives_begun)
    reporter.phase("load", 0)
    train_rows = open_rows(rank.workspace / "data" / "train")
    scored_rows = open_scored(rank.workspace / "data", config.data)
    checkpoints = Checkpoints(
        rank.workspace,
        rank.attempt,
        gang,
        keep=config.checkpoint.keep,
        identity=identity(config, rank.workspace),
        suspect=[(each.attempt, each.first_step) for each in config.recovery.passed_over],
        gives_up_oldest=config.checkpoint.on_disk_full == "RemoveOldest",
    )
    parent = checkpoints.choose_parent()
    reporter.resumed(parent, steps_done_before(rank.workspace, rank.attempt, parent))
    precision = resolve_precision(config.training.precision, device)
    engine = build_engine(config, rank.workspace / "model", precision, device)
    state = TrainState()
    if parent is not None:
        state = TrainState.restored(checkpoints.load(engine, parent))
        log.info("going on from step %d of attempt %d", parent.step, parent.attempt)
    self_test(
        engine,
        gang,
        train_rows,
        reporter,
        workspace=rank.workspace,
        isolated=config.data.packing == "Isolated",
        step=state.step,
    )
    log.info("ready to train: ZeRO %d, %s", engine.stage, precision)
    if config.offload.parts:
        log.info("in host memory: %s", ", ".join(config.offload.parts))
    if config.checkpoint.every_steps is not None and config.checkpoint.asynchronous:
        size = shards.expected_size(engine.partitions(), engine.base_optimizer)
        log.info("checkpoints are written from a copy: %.0f MB of host memory", size / 1e6)
    from finetune_trainer.judging.questions import open_questions  # transformers comes with it

    loop = Loop(
        config=config,
        engine=engine,
        gang=gang,
        train_rows=train_rows,
        scored_rows=scored_rows,
        checkpoints=checkpoints,
        shutdown=shutdown,
        reporter=reporter,
        state=state,
        questions=open_questions(config, rank.workspace, engine.module),
        paired_rows=open_paired(config.evaluation.paired_prompts, rank.workspace),
    )
    shutdown.arm(gangs.connection(rank.place), rank.place.rank, rank.place.world_size)
    loop.run()
    reporter.phase("save", loop.state.step)
    save_weights(engine, gang, rank.folder)
    shutdown.disarm()
    gang.barrier()  # rank 0 holds the store: nobody may still need it when it goes
    reporter.phase("done", loop.state.step)
    if not gang.is_first:
        return {}
    numbers: dict[str, Any] = told(result_of(loop))
    return {**numbers, "resumedFrom": rank.progress.resumed_from}


def pick_device(wanted: str, local_rank: int) -> torch.device:
    """The rank's device: ``CPU`` or its own ``GPU``. Raises ``ConfigInvalid`` where it has none."""
    engines.prepare_environment(wanted)
    if wanted == "CPU":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise ConfigInvalid(
            f"spec.workers.gpusPerWorker: local rank {local_rank} has no GPU, the pod sees {count}",
            hint="does the node have a driver that fits this image?",
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def open_rows(folder: Path) -> PackedRows:
    from finetune_trainer.prepare.store import PackedDataset

    try:
        return PackedDataset(folder)
    except (OSError, ValueError) as error:
        raise BadData(f"the prepared data in {folder} cannot be read: {error}") from error


def build_engine(
    config: RunConfig,
    folder: Path,
    precision: Precision,
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> Engine:
    """Load the prepared model, attach the adapter, and hand both to ZeRO, which brings to its
    device what does not lie on ``device`` from the start. Raises ``ConfigInvalid``."""
    from finetune_trainer.model import load_model, load_quantized

    lean_imports.end()
    training, stage = config.training, effective_stage(config.zero_stage, precision)
    if stage != config.zero_stage:
        log.info(
            "ZeRO %d runs as %d: %s adds up gradients in fp32", config.zero_stage, stage, precision
        )
    if config.method.quantized and stage == 3:
        raise ConfigInvalid(
            "spec.method.lora.quantization: ZeRO 3 cannot partition 4-bit weights",
            hint="set spec.deepspeed.zeroStage to 2 or less",
        )
    # Adapters start from random numbers: the same on every rank.
    torch.manual_seed(training.seed)
    settings = deepspeed_config(
        training, stage, precision, trainable=BUCKET_ELEMENTS, offload=config.offload
    )
    with engines.partitioned_loading(settings):
        if config.method.quantized:
            model = load_quantized(folder, DTYPES[precision], device, training.dropout)
        else:
            model = load_model(folder, DTYPES[precision], dropout=training.dropout)
        # Still inside: an adapter that begins from the weights has to gather them.
        adapted = adapt(model, config)
    return Engine(adapted, training, stage, precision, config.offload)


def adapt(model: Any, config: RunConfig) -> Any:
    """Attach what the job asks for: LoRA, activation checkpointing, noise on the embeddings."""
    adapted = _with_adapters(model, config)
    if config.training.neftune_noise_alpha is not None:
        neftune.attach(adapted, config.training.neftune_noise_alpha)
    return adapted


def _with_adapters(model: Any, config: RunConfig) -> Any:
    if config.training.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    lora = config.method.lora
    if lora is None:
        return model
    if config.training.activation_checkpointing:
        # Frozen embeddings give activations without gradient; checkpointing would then cut off
        # the adapters behind them.
        model.enable_input_require_grads()
    from peft import get_peft_model

    from finetune_trainer.model import lora_config

    try:
        return get_peft_model(model, lora_config(lora))
    except ValueError as error:
        raise ConfigInvalid(f"spec.method.lora.targetModules: {error}") from error


def identity(config: RunConfig, workspace: Path) -> dict[str, Any]:
    """What a checkpoint belongs to. The number of ranks is not part of it."""
    return {
        "model": _digest(workspace / "model" / "manifest.json"),
        "data": _digest(workspace / "data" / "manifest.json"),
        "method": config.method.model_dump(mode="json", by_alias=True),
        "globalBatchSize": config.global_batch_size,
        "seed": config.training.seed,
    }


def _digest(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text())["digest"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise StageError(f"{path} cannot be read: {error}") from error
