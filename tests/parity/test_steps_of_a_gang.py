"""Traps of the step, each proved in a real gang: 2 or 3 processes, gloo, ZeRO."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from unit.trainer.train.bad_numbers import diverge, poison
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.interruptions import peer_dies
from unit.trainer.train.jobs import Job
from unit.trainer.train.stretches import whole
from unit.trainer.train.tiny import random_rows, row_lengths, tiny_llama
from unit.trainer.train.workers import score, train

FULL: dict[str, Any] = {"method": {}}
UNEVEN = [[2], [12, 20], [9], [3, 4, 30], [10], [7], [2, 2], [25], [3], [14, 3], [40]]


def losses(results: list[dict[str, Any]], what: str = "loss") -> list[float]:
    return [step[what] for step in results[0]["steps"]]


def one_step(ranks: int, micro: int, accumulation: int, *, stage: int = 2, rows: int = 6) -> Any:
    training = {
        "steps": 1,
        "microBatchSize": micro,
        "accumulation": accumulation,
        "maxGradNorm": 0,
        "optimizer": {"type": "SGD"},
        "learningRate": 1.0,
    }
    job = Job(
        lengths=UNEVEN[:rows],
        first_gradient=True,
        config={**FULL, "zeroStage": stage, "training": training},
    )
    return run_gang(train, ranks, job)


def plainly(lengths: list[list[int]]) -> tuple[Any, list[tuple[torch.Tensor, int]]]:
    """The untouched model in plain torch, and of each row the loss sum and the targets."""
    model, found = tiny_llama(), []
    for row in random_rows(1, lengths):
        part, count = torch.zeros(()), 0
        for segment in row:
            ids = torch.from_numpy(segment.input_ids.astype(np.int64))[None]
            targets = torch.from_numpy(segment.supervised.astype(bool))[1:]
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            part = part + functional.cross_entropy(
                logits[targets], ids[0, 1:][targets], reduction="sum"
            )
            count += int(targets.sum())
        found.append((part, count))
    return model, found


def test_trap_01_the_gradient_weighs_tokens_and_not_micro_batches() -> None:
    """Two ranks × three micro-batches of unequal length against one batch in plain torch."""
    found = whole(one_step(2, 1, 3), "gradients")
    model, rows = plainly(UNEVEN[:6])

    def difference(loss: torch.Tensor) -> float:
        model.zero_grad()
        loss.backward(retain_graph=True)
        expected = {name: p.grad.view(-1) for name, p in model.named_parameters()}
        return max(float((found[name] - g).abs().max()) for name, g in expected.items())

    sums, counts = zip(*rows, strict=True)
    assert difference(torch.stack(sums).sum() / sum(counts)) <= 1e-6
    means = torch.stack([part / count for part, count in rows])
    assert difference(means.mean()) > 1e-2  # what the trap would have given


def test_trap_02_loss_and_norm_do_not_depend_on_how_the_batch_is_cut() -> None:
    told = [one_step(1, 6, 1)[0], one_step(1, 1, 6)[0], one_step(3, 1, 2)[0]]
    for what in ("loss", "gradNorm"):
        values = [result["steps"][0][what] for result in told]
        assert values == pytest.approx([values[0]] * 3, rel=1e-6)


def test_trap_26_the_gradient_norm_is_the_same_at_every_stage() -> None:
    model, rows = plainly(UNEVEN[:6])
    sums, counts = zip(*rows, strict=True)
    (torch.stack(sums).sum() / sum(counts)).backward()
    plain = float(torch.cat([p.grad.view(-1) for p in model.parameters()]).norm())
    norms = [one_step(2, 1, 3, stage=stage)[0]["steps"][0]["gradNorm"] for stage in range(4)]
    assert norms == pytest.approx([plain] * 4, rel=1e-6)


@pytest.mark.parametrize("stage", range(4))
def test_clipping_shortens_the_gradient_to_the_limit_at_every_stage(stage: int) -> None:
    training = {"steps": 1, "accumulation": 3, "maxGradNorm": 0.05, "learningRate": 1.0}
    training |= {"optimizer": {"type": "SGD"}, "schedule": {"type": "Constant"}}
    job = Job(lengths=UNEVEN[:6], config={**FULL, "zeroStage": stage, "training": training})
    results = run_gang(train, 2, job)
    start = {name: p.detach().view(-1) for name, p in tiny_llama().named_parameters()}
    moved = torch.cat([found - start[name] for name, found in whole(results, "masters").items()])
    assert losses(results, "gradNorm")[0] > 0.05, "told before clipping"
    assert float(moved.norm()) == pytest.approx(0.05, rel=1e-3)


def test_trap_24_the_learning_rate_does_not_depend_on_the_number_of_ranks() -> None:
    """Neither what is told nor what the optimizer gets."""
    traces = []
    for ranks, accumulation in ((1, 2), (2, 1)):
        training = {"steps": 6, "accumulation": accumulation, "learningRate": 0.01}
        job = Job(lengths=UNEVEN, config={"training": training})
        results = run_gang(train, ranks, job)
        traces += [losses(results, "learningRate"), *(result["rates"] for result in results)]
    assert traces == [traces[0]] * 5
    assert len(set(traces[0])) > 3


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_trap_s20_fewer_rows_than_ranks_do_not_hang_the_gang(stage: int) -> None:
    """Five rows on three ranks with micro-batch 1: the last windows leave ranks without a row."""
    job = Job(
        lengths=UNEVEN[:5],
        config={"zeroStage": stage, "training": {"steps": 4, "accumulation": 1}},
    )
    results = run_gang(train, 3, job)
    assert [len(rows) for rows in results[0]["rows"]] == [3, 2, 3, 2]
    assert all(math.isfinite(loss) for loss in losses(results))


@pytest.mark.parametrize(("stage", "checkpointing"), [(0, True), (2, True), (3, True), (2, False)])
def test_trap_19_every_adapter_learns_with_activation_checkpointing(
    stage: int, checkpointing: bool
) -> None:
    """Guarded three times: checkpoints are not reentrant, and transformers and peft let the
    embeddings' output require a gradient, too. The self-test of each job looks once more."""
    training = {"steps": 2, "activationCheckpointing": checkpointing}
    job = Job(lengths=UNEVEN, config={"zeroStage": stage, "training": training})
    masters = whole(run_gang(train, 2, job), "masters")
    late = {name: values for name, values in masters.items() if "lora_B" in name}
    assert len(late) == 14, "seven linear layers in each of two blocks"
    assert all(values.abs().max() > 0 for values in late.values())


def test_activation_checkpointing_changes_no_number() -> None:
    told = []
    for checkpointing in (False, True):
        training = {"steps": 3, "activationCheckpointing": checkpointing, "dropout": 0.1}
        job = Job(lengths=UNEVEN, config={"training": training})
        told.append(losses(run_gang(train, 2, job)))
    assert told[0] == pytest.approx(told[1], rel=1e-6)


@pytest.mark.parametrize("stage", range(4))
def test_traps_28_and_s03_a_gradient_that_is_not_finite_never_reaches_the_weights(
    stage: int,
) -> None:
    job = Job(lengths=UNEVEN, config={**FULL, "zeroStage": stage})
    results = run_gang(poison, 2, job)
    assert [result["outcomes"] for result in results] == [[True, False, True]] * 2
    before, after, later = (whole(results, f"masters{n}") for n in range(3))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(not torch.equal(later[name], after[name]) for name in after)
    assert all(torch.isfinite(values).all() for values in later.values())


@pytest.mark.parametrize("stage", [0, 2])
def test_trap_12_steps_that_are_not_finite_are_counted_and_end_the_job(stage: int) -> None:
    job = Job(
        lengths=UNEVEN,
        config={
            **FULL,
            "zeroStage": stage,
            "training": {
                "learningRate": 1e30,
                "maxGradNorm": 0,
                "schedule": {"type": "Constant", "warmupFraction": 0},
                "optimizer": {"type": "SGD"},
            },
            "recovery": {"maxSkippedSteps": 2},
        },
    )
    results = run_gang(diverge, 2, job)
    assert [result["error"] for result in results] == ["NonFinite"] * 2
    assert results[0]["message"] == results[1]["message"]
    assert "after 2 steps in a row that were left out" in results[0]["message"]
    assert "packed rows" in results[0]["message"]
    assert results[0]["state"]["skipped"] == {"nonfinite": 3}
    steps = [json.loads(line) for line in results[0]["lines"]]
    assert ["loss" in step for step in steps] == [True, False, False], "JSON has no NaN"
    assert [step.get("skipped") for step in steps] == [None, "nonfinite", "nonfinite"]
    assert math.isnan(results[0]["state"]["metrics"]["loss"])


def test_trap_11_evaluation_weighs_tokens_and_not_batches() -> None:
    lengths = [[40], [3], [38], [4], [2], [41]]
    results = run_gang(score, 2, Job(lengths=[], eval_lengths=lengths, supervised=1.0))
    model = tiny_llama().eval()
    total, count, means = 0.0, 0, []
    for (segment,) in random_rows(2, lengths, supervised=1.0):
        ids = torch.from_numpy(segment.input_ids.astype(np.int64))[None]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1]
        part = float(functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        total, count = total + part, count + len(ids[0]) - 1
        means.append(part / (len(ids[0]) - 1))
    assert [result["loss"] for result in results] == pytest.approx([total / count] * 2, rel=1e-6)
    assert results[0]["tokens"] == count
    assert abs(sum(means) / len(means) - total / count) > 1e-3, "the trap would show"


@pytest.mark.parametrize(("ranks", "rows", "calls"), [(2, 1, 1), (3, 4, 2), (2, 6, 3)])
def test_trap_29_ranks_evaluate_in_equally_many_passes(ranks: int, rows: int, calls: int) -> None:
    job = Job(lengths=[], eval_lengths=row_lengths(5, rows), config={"zeroStage": 3})
    results = run_gang(score, ranks, job)
    assert [result["calls"] for result in results] == [calls] * ranks
    alone = run_gang(score, 1, job)
    assert results[0]["loss"] == pytest.approx(alone[0]["loss"], rel=1e-6)


def test_evaluation_leaves_the_random_state_as_it_was_and_training_too() -> None:
    assert all(r["rng_untouched"] for r in run_gang(score, 2, Job([], row_lengths(5, 3))))
    told = []
    for every in (None, 1):
        job = Job(
            UNEVEN,
            row_lengths(5, 3),
            {"evaluation": {"everySteps": every}, "training": {"steps": 4, "dropout": 0.1}},
        )
        told.append(losses(run_gang(train, 2, job)))
    assert told[0] == told[1]


def test_survivors_of_a_dead_rank_learn_it_at_once() -> None:
    results = run_gang(peer_dies, 2, Job(lengths=UNEVEN))
    assert type(results[0]["error"]).__name__ == "CollectiveTimeout"
    assert results[0]["seconds"] < 5
