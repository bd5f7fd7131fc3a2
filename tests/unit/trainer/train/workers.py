"""What the ranks of a test gang do: train for real, and bring home what a test wants to look at."""

from __future__ import annotations

import errno
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from tiny_models import make_tokenizer
from unit.trainer.train.tiny import VOCABULARY, random_rows, run_config, tiny_llama, write_rows

from finetune_trainer import gang as gangs
from finetune_trainer import lineage, shards
from finetune_trainer.batches import collate
from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.config import RunConfig
from finetune_trainer.engine import Engine
from finetune_trainer.errors import Preempted
from finetune_trainer.evaluate import evaluate
from finetune_trainer.gang import Gang
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.judging.datasets import ScoredRows
from finetune_trainer.judging.decode import Decoding, Signals, decode
from finetune_trainer.judging.paired import PairedRows
from finetune_trainer.judging.prompts import Prompt
from finetune_trainer.judging.questions import Questions
from finetune_trainer.loop import Loop
from finetune_trainer.loss import loss_sum
from finetune_trainer.metrics import Metrics
from finetune_trainer.model import load_model
from finetune_trainer.prepare.store import PackedDataset
from finetune_trainer.progress import Progress
from finetune_trainer.rendezvous import Place
from finetune_trainer.reporter import Reporter
from finetune_trainer.session import adapt, build_engine
from finetune_trainer.state import TrainState
from finetune_trainer.weights import save_weights
from finetune_trainer.zero_config import effective_stage, resolve_precision

TIMEOUT = 60.0
BAD_TOKEN = VOCABULARY - 1
STOPS = (2, 11, 30, 55)
"""Tokens that end an answer."""


class NeverStop:
    agreed = False


class Recorder(Reporter):
    """Keeps the numbers of every step."""

    def step_done(self, state: Any, numbers: dict[str, Any], **rest: Any) -> None:
        self.__dict__.setdefault("steps", []).append(dict(numbers))
        self.__dict__.setdefault("rows", []).append(rest["window"].rows.tolist())
        super().step_done(state, numbers, **rest)


@dataclass
class Job:
    """A small job; ``config`` are overrides of ``tiny.run_config``."""

    lengths: list[list[int]]
    eval_lengths: list[list[int]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    prompts: list[list[int]] = field(default_factory=list)
    """To be answered where ``config`` wants answers."""
    same_rows: bool = False
    """The held-out rows are those that are trained on."""
    supervised: float = 0.6
    first_gradient: bool = False
    bad_row: int | None = None
    """The only train row with the token ``BAD_TOKEN``."""
    general_lengths: list[list[int]] = field(default_factory=list)
    paired_lengths: list[list[int]] = field(default_factory=list)
    """Rows for the paired prompts of ``config``, two for each."""
    start: Path | None = None
    """Folder of the model to start from; None: the random one of ``model``."""
    bad: str = "output"
    """What that token does: see ``_make_bad``; ``surprise``: the row is noise among equal rows."""

    def run_config(self, world_size: int) -> RunConfig:
        workers = {"count": 1, "ranksPerWorker": world_size, "device": "CPU"}
        return RunConfig.model_validate(run_config(**{"workers": workers, **self.config}))


def joined(place: Place) -> Gang:
    return gangs.join(
        place, torch.device("cpu"), rendezvous_seconds=TIMEOUT, collective_seconds=TIMEOUT
    )


def built(job: Job, config: RunConfig) -> Engine:
    precision = resolve_precision(config.training.precision, torch.device("cpu"))
    model = starting_model(job)
    if job.bad_row is not None:
        _make_bad(model, job.bad)
    torch.manual_seed(config.training.seed)
    return Engine(
        adapt(model, config),
        config.training,
        effective_stage(config.zero_stage, precision),
        precision,
    )


def starting_model(job: Job) -> Any:
    """The model that the job trains, without an adapter."""
    return load_model(job.start, torch.float32) if job.start else tiny_llama(**job.model)


def _make_bad(model: Any, how: str) -> None:
    """Let ``BAD_TOKEN`` make numbers that are not finite.

    ``weight``: its embedding is NaN; ``output``: a layer's output; ``gradient``: that of a layer,
    behind a finite loss; ``loss``: the loss is infinite where it is the target, and every gradient
    finite.
    """
    met = [False]

    def watch(_module: Any, _arguments: Any, inputs: dict[str, Any]) -> None:
        met[0] = bool((inputs["input_ids"] == BAD_TOKEN).any())

    model.register_forward_pre_hook(watch, with_kwargs=True)
    layer = model.model.layers[1].mlp.act_fn
    if how == "weight":
        with torch.no_grad():
            model.model.embed_tokens.weight[BAD_TOKEN] = float("nan")
    if how == "output":
        layer.register_forward_hook(lambda _m, _i, out: out * float("nan") if met[0] else None)
    if how == "gradient":
        layer.register_full_backward_hook(
            lambda _m, grads, _o: (grads[0] * float("inf"),) if met[0] else None
        )
    if how == "loss":
        column = torch.zeros(VOCABULARY)
        column[BAD_TOKEN] = float("-inf")
        model.lm_head.register_forward_hook(lambda _m, _i, out: out + column if met[0] else None)


def rows_in(folder: Path, seed: int, lengths: list[list[int]], supervised: float) -> PackedDataset:
    write_rows(folder, random_rows(seed, lengths, supervised=supervised))
    return PackedDataset(folder)


def train_rows(folder: Path, job: Job) -> PackedDataset:
    """The rows to train on, one of them bad if the job says so."""
    rows = random_rows(1, job.lengths, supervised=job.supervised)
    for number, row in enumerate(rows) if job.bad_row is not None else ():
        for segment in row:
            ids = segment.input_ids
            if job.bad == "surprise" and number != job.bad_row:
                ids[:] = np.arange(1, len(ids) + 1)
            elif job.bad != "surprise":
                ids[ids == BAD_TOKEN] = 1
                if number == job.bad_row:
                    ids[-1] = BAD_TOKEN
                    segment.supervised[-1] = 1
    write_rows(folder, rows)
    return PackedDataset(folder)


def assembled(job: Job, place: Place, shared: Path | None = None, attempt: int = 0) -> Loop:
    """A loop over the job's rows in a joined gang, resumed if the workspace holds a checkpoint.

    ``shared`` is the workspace; None: a new one.
    """
    config = job.run_config(place.world_size)
    gang = joined(place)
    workspace: Path = shared or gang.broadcast(Path(tempfile.mkdtemp()))
    scratch = Path(tempfile.mkdtemp())
    folder = workspace / "attempts" / str(attempt)
    checkpoints = Checkpoints(
        workspace,
        attempt,
        gang,
        keep=config.checkpoint.keep,
        identity={},
        suspect=[(each.attempt, each.first_step) for each in config.recovery.passed_over],
        gives_up_oldest=config.checkpoint.on_disk_full == "RemoveOldest",
    )
    parent = checkpoints.choose_parent()
    engine = built(job, config)
    state = TrainState()
    if parent is not None:
        state = TrainState.restored(checkpoints.load(engine, parent))
    return Loop(
        config=config,
        engine=engine,
        gang=gang,
        train_rows=train_rows(scratch / "train", job),
        scored_rows=scored_rows(scratch, job),
        checkpoints=checkpoints,
        shutdown=NeverStop(),  # type: ignore[arg-type]
        reporter=recorder(place, folder, attempt),
        state=state,
        questions=questions(job, config, workspace),
        paired_rows=paired_rows(job, config, scratch, workspace),
    )


def paired_rows(job: Job, config: RunConfig, scratch: Path, workspace: Path) -> PairedRows | None:
    if not job.paired_lengths:
        return None
    rows = rows_in(scratch / "paired", 4, job.paired_lengths, job.supervised)
    return PairedRows(config.evaluation.paired_prompts, rows, workspace / "answers")


def scored_rows(scratch: Path, job: Job) -> list[ScoredRows]:
    """The job's held-out rows, and general ones if it has any; sources take turns."""
    seed = 1 if job.same_rows else 2
    wanted: list[tuple[Any, int, Any]] = [("Eval", seed, job.eval_lengths)]
    if job.general_lengths:
        wanted.append(("General", 3, job.general_lengths))
    found = []
    for role, drawn, lengths in wanted:
        rows = rows_in(scratch / role, drawn, lengths, job.supervised)
        sources = np.arange(len(rows)) % 2
        found.append(ScoredRows(role, rows, ("first", "second"), sources))
    return [each for each in found if len(each.rows)]


def questions(job: Job, config: RunConfig, workspace: Path) -> Questions | None:
    """The job's prompts, as text and as they are; the references are all alike."""
    wish = config.evaluation.generation
    if wish is None:
        return None
    tokenizer = make_tokenizer()
    prompts = [
        Prompt(f"row {n}", ({"role": "user", "content": f"prompt {n}"},), tuple(ids), "a b c")
        for n, ids in enumerate(job.prompts)
    ]
    return Questions(wish, prompts, tokenizer, decoding(wish.max_new_tokens), workspace / "answers")


def decoding(max_new_tokens: int, batch_tokens: int = 64) -> Decoding:
    return Decoding(frozenset(STOPS), 0, max_new_tokens, batch_tokens)


def answer_prompts(
    place: Place, job: Job, batch_tokens: int, stop_after: int | None = None
) -> dict[str, Any]:
    """Answer the job's prompts with the untouched model. ``stop_after``: passes, on the last
    rank alone."""
    gang = joined(place)
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


def recorder(place: Place, folder: Path, attempt: int = 0) -> Recorder:
    return Recorder(
        rank=place.rank,
        folder=folder,
        metrics=Metrics(rank=place.rank),
        progress=Progress(attempt, folder / "heartbeats", place.world_size),
        heartbeat=Heartbeat(folder / "heartbeats", place.rank),
    )


def train(
    place: Place, job: Job, workspace: Path | None = None, attempt: int = 0
) -> dict[str, Any]:
    """Train to the end. Brings home steps, rows, weights by name, and the state."""
    loop = assembled(job, place, workspace, attempt)
    gradients = watch_first_gradient(loop.engine) if job.first_gradient else {}
    loop.run()
    return {
        "steps": getattr(loop.reporter, "steps", []),
        "rows": getattr(loop.reporter, "rows", []),
        "masters": pieces(loop.engine, "master"),
        "gradients": gradients,
        "state": loop.state.content(),
    }


def pieces(engine: Engine, what: str) -> dict[str, dict[int, torch.Tensor]]:
    """This rank's stretches of a state by parameter name and first element."""
    found: dict[str, dict[int, torch.Tensor]] = {}
    for partition in engine.partitions():
        flat = partition.master if what == "master" else partition.state[what]
        for piece in partition.pieces if partition.mine else ():
            stretch = flat.view(-1)[piece.offset : piece.offset + piece.numel]
            found.setdefault(piece.name, {})[piece.start] = stretch.detach().clone()
    return found


def whole(results: list[dict[str, Any]], what: str) -> dict[str, torch.Tensor]:
    """Flattened parameters put together from the stretches of all ranks."""
    stretches: dict[str, dict[int, torch.Tensor]] = {}
    for result in results:
        for name, found in result[what].items():
            stretches.setdefault(name, {}).update(found)
    return {
        name: torch.cat([found[start] for start in sorted(found)])
        for name, found in stretches.items()
    }


def watch_first_gradient(engine: Engine) -> dict[str, dict[int, torch.Tensor]]:
    """Fills itself with the reduced gradient that the first optimizer step gets."""
    found: dict[str, dict[int, torch.Tensor]] = {}
    seen: set[int] = set()

    def hook(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for partition in engine.partitions():
            if partition.master.grad is None and engine.stage:
                continue
            if id(partition.master) in seen and engine.stage:
                continue
            seen.add(id(partition.master))
            for piece in partition.pieces if partition.mine else ():
                gradient = (
                    partition.master.grad
                    if engine.stage
                    else dict(engine.module.named_parameters())[piece.name].grad
                )
                stretch = gradient.reshape(-1)[piece.offset : piece.offset + piece.numel]
                found.setdefault(piece.name, {}).setdefault(piece.start, stretch.detach().clone())

    engine.base_optimizer.register_step_pre_hook(hook)
    return found


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


def poison(place: Place, job: Job) -> dict[str, Any]:
    """One good step, one with an infinite gradient on the last rank, one good step again."""
    loop = assembled(job, place)
    parameter = next(p for p in loop.engine.module.parameters() if p.requires_grad)
    poisoned = [False]
    if place.rank == place.world_size - 1:
        parameter.register_hook(lambda g: g + float("inf") if poisoned[0] else g)
    outcomes, masters = [], []
    for step, bad in enumerate((False, True, False)):
        poisoned[0] = bad
        _, outcome = loop.train_window(loop.windows[step], 0.01)
        assert outcome is not None
        outcomes.append(outcome.applied)
        masters.append(pieces(loop.engine, "master"))
    return {"outcomes": outcomes, **{f"masters{n}": found for n, found in enumerate(masters)}}


def one_bad_step(place: Place, job: Job) -> dict[str, Any]:
    """Train on the windows of the first two steps. Brings home what became of them."""
    loop = assembled(job, place)
    told, masters = [], [pieces(loop.engine, "master")]
    for step in (0, 1):
        mine, outcome = loop.train_window(loop.windows[step], 0.01)
        assert outcome is not None
        told.append((outcome.applied, outcome.grad_norm, mine))
        masters.append(pieces(loop.engine, "master"))
    return {"told": told, **{f"masters{n}": found for n, found in enumerate(masters)}}


def diverge(
    place: Place, job: Job, workspace: Path | None = None, attempt: int = 0
) -> dict[str, Any]:
    """Train until the loop itself gives up. Brings home the error and the last lines told."""
    loop = assembled(job, place, workspace, attempt)
    try:
        loop.run()
    except Exception as error:
        lines = loop.reporter.lines
        return {
            "error": type(error).__name__,
            "message": str(error),
            "hint": getattr(error, "hint", None),
            "beat": loop.reporter.heartbeat.step,
            "state": loop.state.content(),
            "lines": lines.read_text().splitlines() if lines.exists() else [],
        }
    return {"error": None, "state": loop.state.content()}


def stop_in(
    place: Place, job: Job, workspace: Path, attempt: int, phase: str, step: int
) -> dict[str, Any]:
    """Train, and ask to stop on the last rank alone in ``phase`` after ``step`` finished steps."""
    loop = assembled(job, place, workspace, attempt)

    class Asked:
        @property
        def agreed(self) -> bool:
            beat = loop.reporter.heartbeat
            return place.rank == place.world_size - 1 and (beat.phase, beat.step) == (phase, step)

    loop.shutdown = Asked()  # type: ignore[assignment]
    try:
        loop.run()
    except Preempted as error:
        return {"message": str(error), "step": loop.state.step}
    return {"message": None, "step": loop.state.step}


def export(place: Place, job: Job, folder: Path) -> dict[str, Any]:
    """Train, save the final weights, and bring home what the engine holds."""
    loop = assembled(job, place)
    loop.run()
    save_weights(loop.engine, loop.gang, folder)
    loop.gang.barrier()
    return {"masters": pieces(loop.engine, "master")}


def fill_up(place: Place, job: Job, workspace: Path) -> dict[str, Any]:
    """Save once with a shard that the last rank cannot write for lack of space."""
    loop = assembled(job, place, workspace)
    written = shards.write
    if place.rank == place.world_size - 1:

        def full(path: Path, *_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        shards.write = full
    try:
        loop.checkpoints.save(loop.engine, 1, {})
    except Exception as error:
        shards.write = written
        return {"error": type(error).__name__, "message": str(error)}
    return {"error": None}


def fill_up_at_the_end(place: Place, job: Job, folder: Path) -> dict[str, Any]:
    """Save the final weights on a volume without space, as the library tells of it."""
    loop = assembled(job, place)

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    loop.engine.module.save_pretrained = full
    try:
        save_weights(loop.engine, loop.gang, folder)
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"error": None}


def save_often(
    place: Place, job: Job, workspace: Path, steps: list[int], best: int, asynchronous: bool
) -> list[int]:
    """Save at each step, protecting ``best``; returns the steps that are left."""
    loop = assembled(job, place, workspace)
    for step in steps:
        if asynchronous:
            loop.checkpoints.begin(loop.engine, step, {}, protect={best})
            loop.checkpoints.finish()
        else:
            loop.checkpoints.save(loop.engine, step, {}, protect={best})
    return [published.step for published in loop.checkpoints.published]


def begin(place: Place, job: Job, workspace: Path, attempt: int) -> tuple[int, int] | None:
    """Load what the attempt has to go on from, and end. Returns the parent's attempt and step."""
    assembled(job, place, workspace, attempt)
    parent = json.loads((workspace / f"attempts/{attempt}/parent.json").read_text())
    return (parent["attempt"], parent["step"]) if parent["attempt"] is not None else None


def believed_dead(
    place: Place, job: Job, workspace: Path, step: int, blind: bool
) -> dict[str, Any]:
    """Attempt 0: it hears nothing after ``step`` steps until attempt 1 has begun, then goes on.

    ``blind``: its volume never shows it that. Brings home why it ended and what it had saved.
    """
    loop = assembled(job, place, workspace, 0)
    trained = loop.train_window

    def train_window(window: Any, rate: float, *rest: Any) -> Any:
        while window.step == step and not (workspace / "attempts/1/parent.json").exists():
            time.sleep(0.05)
        return trained(window, rate, *rest)

    loop.train_window = train_window  # type: ignore[method-assign]
    if blind:
        lineage.successor = lambda *_: None
    try:
        loop.run()
    except Preempted as error:
        return {"message": str(error), "step": loop.state.step}
    return {"message": None, "step": loop.state.step}


def peer_dies(place: Place, job: Job) -> dict[str, Any]:
    """Rank 1 dies inside a step; the others bring home what they make of it, and how fast."""
    loop = assembled(job, place)
    loop.train_window(loop.windows[0], 0.01)
    loop.gang.barrier()
    began = time.monotonic()
    if place.rank == 1:
        return {}  # the harness ends the process without a word to the others
    try:
        loop.run()
    except Exception as error:
        return {"error": gangs.translated(error), "seconds": time.monotonic() - began}
    return {"error": None}


def train_in_fp16(place: Place, job: Job, scale: float | None = None) -> dict[str, Any]:
    """Train in FP16 on a CPU that DeepSpeed takes to be unable to: torch computes it, slowly.

    ``scale``: the loss scale to begin with.
    """
    import deepspeed.accelerator

    deepspeed.accelerator.get_accelerator().is_fp16_supported = lambda: True
    loop = assembled(job, place)
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
        "state": loop.state.content(),
    }


def train_from_folder(place: Place, job: Job, workspace: Path) -> dict[str, Any]:
    """Train the prepared model of a workspace, loaded as the trainer loads it."""
    from finetune_trainer import session

    held: list[int] = []
    adapt_ = session.adapt

    def watch(model: Any, config: RunConfig) -> Any:
        held.append(sum(p.numel() for p in model.parameters()))
        return adapt_(model, config)

    session.adapt = watch
    config = job.run_config(place.world_size)
    gang = joined(place)
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
