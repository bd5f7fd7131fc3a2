"""What the ranks of a test gang do: train for real, and bring home what a test wants to look at."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from unit.trainer.train.jobs import Job, built, joined, rows_in
from unit.trainer.train.loops import NeverStop, assembled, decoding, recorder
from unit.trainer.train.stretches import pieces, watch_first_gradient, watch_rates

from finetune_trainer.batches import collate
from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.config import RunConfig
from finetune_trainer.evaluate import evaluate
from finetune_trainer.gang import Gang
from finetune_trainer.judging.decode import Signals, decode
from finetune_trainer.loop import Loop
from finetune_trainer.loss import loss_sum
from finetune_trainer.rendezvous import Place
from finetune_trainer.session import build_engine
from finetune_trainer.weights import save_weights


def answer_prompts(
    place: Place, job: Job, batch_tokens: int, stop_after: int | None = None
) -> dict[str, Any]:
    """Answer the job's prompts with the untouched model. ``stop_after``: passes, on the last
    rank alone."""
    gang = joined(place, collective_seconds=20)  # of ranks that leave each other
    engine = built(job, job.run_config(place.world_size))
    calls: list[int] = []
    asked = place.rank == place.world_size - 1 and stop_after is not None
    before = torch.get_rng_state()
    answers = decode(
        engine,
        gang,
        job.prompts,
        decoding(12, batch_tokens),
        logits_to_keep=True,
        signals=Signals(
            on_pass=lambda: calls.append(1),
            stop=lambda: asked and len(calls) >= (stop_after or 0),
        ),
    )
    return {
        "answers": answers,
        "calls": len(calls),
        "rng_untouched": bool(torch.equal(before, torch.get_rng_state())),
    }


def train(
    place: Place, job: Job, workspace: Path | None = None, attempt: int = 0
) -> dict[str, Any]:
    """Train to the end. Brings home steps, rows, rates, weights by name, and the state."""
    loop = assembled(job, place, workspace, attempt)
    gradients = watch_first_gradient(loop.engine) if job.first_gradient else {}
    rates = watch_rates(loop.engine)
    loop.run()
    return {
        "steps": getattr(loop.reporter, "steps", []),
        "rows": getattr(loop.reporter, "rows", []),
        "masters": pieces(loop.engine, "master"),
        "gradients": gradients,
        "rates": rates,
        "state": loop.state.content(),
    }


def score(place: Place, job: Job) -> dict[str, Any]:
    """Evaluate the untouched model on the job's evaluation rows."""
    config = job.run_config(place.world_size)
    gang = joined(place)
    engine = built(job, config)
    rows = rows_in(Path(tempfile.mkdtemp()) / "eval", 2, job.eval_lengths, job.supervised)
    before = torch.get_rng_state()
    calls: list[int] = []
    result = evaluate(
        engine,
        gang,
        rows,
        micro_batch_size=config.training.micro_batch_size,
        logits_to_keep=True,
        groups=np.arange(len(rows)) % 2,
        on_pass=lambda: calls.append(1),
    )
    assert result is not None
    return {
        "loss": result.loss,
        "tokens": result.tokens,
        "parts": [(part.loss, part.tokens) for part in result.parts],
        "calls": len(calls),
        "rng_untouched": bool(torch.equal(before, torch.get_rng_state())),
    }


def adapter_losses(place: Place, job: Job, model: Path) -> list[float]:
    """Losses of three steps on the same row on every rank, from the model in a folder."""
    config = job.run_config(place.world_size)
    joined(place)
    engine = build_engine(config, model, "FP32")
    rows = rows_in(Path(tempfile.mkdtemp()) / "train", 1, job.lengths, job.supervised)
    batch = collate([rows.row(0)])
    losses = []
    for _ in range(3):
        summed = loss_sum(engine, batch, logits_to_keep=True)
        engine.backward(summed / 10)
        engine.step(0.1)
        losses.append(float(summed))
    return losses


def imported(place: Place, module: str, job: Job, model: Path) -> bool:
    """Whether a module is there once a few steps were trained."""
    adapter_losses(place, job, model)
    return module in sys.modules


def export(place: Place, job: Job, folder: Path) -> dict[str, Any]:
    """Train, save the final weights, and bring home what the engine holds."""
    loop = assembled(job, place)
    loop.run()
    save_weights(loop.engine, loop.gang, folder)
    loop.gang.barrier()
    return {"masters": pieces(loop.engine, "master")}


def train_in_fp16(place: Place, job: Job, scale: float | None = None) -> dict[str, Any]:
    """Train in FP16 on a CPU that DeepSpeed takes to be unable to: torch computes it, slowly.

    ``scale``: the loss scale to begin with.
    """
    import deepspeed.accelerator

    deepspeed.accelerator.get_accelerator().is_fp16_supported = lambda: True
    loop = assembled(job, place)
    gradients = watch_first_gradient(loop.engine) if job.first_gradient else {}
    if scale is not None:
        loop.engine.restore_scaler({"cur_scale": scale})
    scales = [loop.engine.loss_scale]
    stepped = loop.engine.step

    def step(rate: float) -> Any:
        outcome = stepped(rate)
        scales.append(loop.engine.loss_scale)
        return outcome

    loop.engine.step = step  # type: ignore[method-assign]
    loop.run()
    return {
        "steps": getattr(loop.reporter, "steps", []),
        "scales": scales,
        "masters": pieces(loop.engine, "master"),
        "gradients": gradients,
        "state": loop.state.content(),
    }


def train_from_folder(
    place: Place, job: Job, workspace: Path, gang: Gang | None = None
) -> dict[str, Any]:
    """Train the prepared model of a workspace, loaded as the trainer loads it."""
    from finetune_trainer import session

    held: list[int] = []
    adapt_ = session.adapt

    def watch(model: Any, config: RunConfig) -> Any:
        held.append(sum(p.numel() for p in model.parameters()))
        return adapt_(model, config)

    session.adapt = watch
    config = job.run_config(place.world_size)
    gang = gang or joined(place)
    engine = session.build_engine(config, workspace / "model", "FP32")
    loop = Loop(
        config=config,
        engine=engine,
        gang=gang,
        train_rows=session.open_rows(workspace / "data" / "train"),
        scored_rows=(),
        checkpoints=Checkpoints(workspace, 0, gang, keep=1, identity={}),
        shutdown=NeverStop(),  # type: ignore[arg-type]
        reporter=recorder(place, workspace / "attempts" / "0"),
    )
    loop.run()
    return {"steps": getattr(loop.reporter, "steps", []), "elements_after_loading": held[0]}


def train_with_a_layer_that_rests(place: Place, job: Job) -> dict[str, Any]:
    """As `train`, with a layer that no token of every other window reaches, nor of the first
    micro-batch of the others, as it may happen to an expert."""
    loop = assembled(job, place, None, 0)
    mlp, step = loop.engine.module.model.layers[1].mlp, loop.engine.step
    forward, windows, passes = mlp.forward, [0], [0]

    def sometimes(x: torch.Tensor) -> torch.Tensor:
        passes[0] += 1
        reached = windows[0] % 2 == 0 and passes[0] > 1
        result: torch.Tensor = forward(x) if reached else torch.zeros_like(x)
        return result

    def counted(learning_rate: float) -> Any:
        windows[0], passes[0] = windows[0] + 1, 0
        return step(learning_rate)

    mlp.forward, loop.engine.step = sometimes, counted  # type: ignore[method-assign]
    loop.run()
    return {"masters": pieces(loop.engine, "master")}
