"""Training that ran out of memory goes on smaller, down a ladder, with the same global batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import KEY, UID, make_facts, make_plan, make_spec, status_in
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.types import (
    Adaptation,
    Failure,
    FineTuneJobStatus,
    ModelStatus,
    ResumedFrom,
    StageName,
)
from finetune_operator.memory_ladder import WITHOUT_COPY, Fit, descend, difference, next_rung
from finetune_operator.plan import Platform, plan_training
from finetune_operator.policies.facts import Facts, State
from finetune_operator.policies.restart import restart_or_end
from finetune_operator.settings import Settings

SAVES = {"checkpoint": {"everySteps": 5}}
ON_GPU = {"workers": {"gpusPerWorker": 1, "ranksPerWorker": None}}


def out_of_memory(
    name: str = "CudaOom", stage: StageName = StageName.TRAIN, step: int | None = 0
) -> Failure:
    return Failure(failure_class=name, stage=stage, attempt=0, step=step, message="out of memory")


SAVED = out_of_memory("HostOom", step=5)
"""At the first save of those below."""


def facts(spec: dict[str, Any] | None = None, **status: Any) -> Facts:
    return make_facts(status_in(StageName.TRAIN, **status), spec=make_spec(**(spec or {})))


def test_the_ladder_step_by_step() -> None:
    fit, told = Fit(6, 2, False, 1, world_size=2), []
    while rung := next_rung(fit):
        before, (fit, change) = fit, rung
        told.append(change)
        assert fit.micro * fit.accumulation == before.micro * before.accumulation
    assert told == [
        "microBatchSize 6 → 3, accumulation 2 → 4",
        "microBatchSize 3 → 1, accumulation 4 → 12",
        "activationCheckpointing Enabled",
        "zeroStage 1 → 2",
        "zeroStage 2 → 3",
    ]
    assert fit == Fit(1, 12, True, 3, world_size=2)
    assert descend(Fit(6, 2, False, 1, world_size=2), told) == fit
    assert descend(fit, ["one more"]) == fit


@pytest.mark.parametrize(
    ("stage", "ranks", "rungs", "last"),
    [
        pytest.param(
            2,
            4,
            [
                "zeroStage 2 → 3",
                "offloadOptimizer None → CPU",
                "offloadParameters None → CPU",
            ],
            "zeroStage 3, offloadOptimizer CPU, offloadParameters CPU",
            id="several ranks partition first",
        ),
        pytest.param(
            0,
            1,
            [
                "offloadOptimizer None → CPU, zeroStage 0 → 2",
                "offloadParameters None → CPU, zeroStage 2 → 3",
            ],
            "zeroStage 3, offloadOptimizer CPU, offloadParameters CPU",
            id="one rank needs a stage that offloads",
        ),
        pytest.param(
            1,
            1,
            [
                "offloadOptimizer None → CPU, zeroStage 1 → 2",
                "offloadParameters None → CPU, zeroStage 2 → 3",
            ],
            "zeroStage 3, offloadOptimizer CPU, offloadParameters CPU",
            id="with the gradients",
        ),
    ],
)
def test_beside_gpus_the_last_rungs_are_offload(
    stage: int, ranks: int, rungs: list[str], last: str
) -> None:
    start = Fit(1, 8, activation_checkpointing=True, zero_stage=stage, world_size=ranks)
    on_gpu, told = replace(start, on_gpu=True), []
    fit = on_gpu
    while rung := next_rung(fit):
        fit, change = rung
        told.append(change)
    assert told == rungs
    assert difference(on_gpu, fit) == last
    assert descend(on_gpu, told) == fit
    assert not descend(start, told).offloads, "on CPUs there is nowhere to move it to"


@pytest.mark.parametrize(("ranks", "stage"), [(1, 0), (4, 1), (4, 2)])
def test_the_ladder_never_leads_4_bit_weights_to_zero_3(ranks: int, stage: int) -> None:
    fit = Fit(4, 2, False, stage, world_size=ranks, on_gpu=True, quantized=True)
    while rung := next_rung(fit):
        fit, _ = rung
        assert fit.zero_stage <= 2 and not fit.offload_parameters
    assert (fit.micro, fit.activation_checkpointing, fit.zero_stage) == (1, True, 2)
    assert fit.offload_optimizer


@given(
    st.builds(
        Fit,
        st.integers(1, 64),
        st.integers(1, 16),
        st.booleans(),
        st.integers(0, 3),
        world_size=st.integers(1, 8),
        on_gpu=st.booleans(),
    )
)
def test_the_ladder_ends_and_is_found_again_from_its_changes(start: Fit) -> None:
    fit, told = start, []
    while rung := next_rung(fit):
        before, (fit, change) = fit, rung
        told.append(change)
        assert fit != before and fit.micro * fit.accumulation == start.micro * start.accumulation
        assert fit.zero_stage >= before.zero_stage
        assert descend(start, told) == fit
    assert len(told) <= 12
    assert fit.offload_optimizer == fit.offload_parameters == start.on_gpu
    assert not fit.offload_parameters or fit.zero_stage == 3
    assert bool(difference(start, fit)) == bool(told)


@pytest.mark.parametrize("micro", range(1, 65))
def test_every_rung_is_smaller_and_keeps_the_global_batch(micro: int) -> None:
    fit = Fit(micro, 3, False, 0, world_size=1)
    for _ in range(8):
        rung = next_rung(fit)
        if rung is None:
            break
        assert rung[0].micro < fit.micro or rung[0].activation_checkpointing
        fit = rung[0]
        assert fit.micro * fit.accumulation == micro * 3
    assert fit.zero_stage == 0, "a single rank has nobody to share with"
    assert next_rung(fit) is None


@pytest.mark.parametrize(
    ("spec", "failure", "change"),
    [
        ({}, out_of_memory(), "microBatchSize 2 → 1, accumulation 4 → 8"),
        ({}, out_of_memory("HostOom"), "microBatchSize 2 → 1, accumulation 4 → 8"),
        (SAVES, SAVED, WITHOUT_COPY),
        (SAVES, out_of_memory("HostOom", step=4), "microBatchSize 2 → 1, accumulation 4 → 8"),
        (SAVES, out_of_memory("HostOom", step=None), "microBatchSize 2 → 1, accumulation 4 → 8"),
        (SAVES, out_of_memory(step=5), "microBatchSize 2 → 1, accumulation 4 → 8"),
        (ON_GPU, out_of_memory("HostOom"), None),
        ({**ON_GPU, **SAVES}, SAVED, WITHOUT_COPY),
        ({**ON_GPU, **SAVES}, out_of_memory("HostOom", step=4), None),
        (
            {**ON_GPU, "checkpoint": {"everySteps": 5, "asynchronous": "Disabled"}},
            SAVED,
            None,
        ),
        ({**SAVES, "recovery": {"onOutOfMemory": "Fail"}}, SAVED, None),
        ({"recovery": {"onOutOfMemory": "Fail"}}, out_of_memory(), None),
        ({}, out_of_memory(stage=StageName.EXPORT), None),
        ({}, out_of_memory("Internal"), None),
    ],
)
def test_what_follows_from_too_little_memory(
    spec: dict[str, Any], failure: Failure, change: str | None
) -> None:
    known = facts(spec)
    verdict = restart_or_end(known, failure)
    assert verdict.state is State.MOVING
    restarts, (past,) = verdict.changes["restarts"], verdict.changes["past_failures"]
    if change is None:
        assert (restarts.program, restarts.memory, past.budget) == (1, None, "Program")
        assert "resolved" not in verdict.changes
        return
    assert (restarts.program, restarts.memory, past.budget) == (0, 1, None)
    assert f"with less memory in use: {change}" in verdict.message
    (step,) = verdict.changes["resolved"].adaptations
    assert (step.attempt, step.failure_class, step.change) == (0, failure.failure_class, change)


def test_the_plan_rests_on_the_steps_taken_and_keeps_them() -> None:
    known = facts()
    status = known.status
    for rungs, micro, checkpointing in ((1, 1, "Disabled"), (2, 1, "Enabled")):
        changes = restart_or_end(known, out_of_memory()).changes
        status = FineTuneJobStatus.model_validate(
            status.model_copy(update={"resolved": changes["resolved"]}).wire()
        )
        plan = plan_training(KEY, UID, make_spec(), status, Platform(Settings()), {})
        resolved = plan.resolved
        assert len(resolved.adaptations or ()) == rungs
        assert (resolved.micro_batch_size, resolved.activation_checkpointing) == (
            micro,
            checkpointing,
        )
        assert resolved.global_batch_size == 16
        assert plan.run_config["training"]["microBatchSize"] == micro
        assert plan.run_config["training"]["activationCheckpointing"] is (
            checkpointing == "Enabled"
        )
        known = make_facts(status, spec=make_spec())


def test_the_copy_goes_first_and_the_batch_only_where_that_was_not_enough() -> None:
    spec = make_spec(checkpoint={"everySteps": 5})
    known, status = facts(SAVES), facts(SAVES).status
    seen = []
    for _ in range(3):
        changes = restart_or_end(known, SAVED).changes
        status = FineTuneJobStatus.model_validate(
            status.model_copy(update={"resolved": changes["resolved"]}).wire()
        )
        config = plan_training(KEY, UID, spec, status, Platform(Settings()), {}).run_config
        seen.append((config["checkpoint"]["asynchronous"], config["training"]["microBatchSize"]))
        known = make_facts(status, spec=spec)
    assert seen == [(False, 2), (False, 1), (False, 1)]
    assert [each.change for each in status.resolved.adaptations or ()] == [  # type: ignore[union-attr]
        WITHOUT_COPY,
        "microBatchSize 2 → 1, accumulation 4 → 8",
        "activationCheckpointing Enabled",
    ]


def test_an_attempt_that_went_on_from_a_checkpoint_holds_a_copy_once_it_has_saved_itself() -> None:
    known = facts(SAVES, attempt=1, resumed_from=ResumedFrom(attempt=0, step=10))
    before = restart_or_end(known, out_of_memory("HostOom", step=14)).message
    after = restart_or_end(known, out_of_memory("HostOom", step=15)).message
    assert "microBatchSize 2 → 1" in before and WITHOUT_COPY in after


SHAPE = {
    "trainable": 1_000_000_000,
    "largest": 100_000_000,
    "layers": 16,
    "hidden": 2048,
    "attention": 2048,
    "intermediate": 8192,
    "vocabulary": 50_000,
    "gated": True,
    "rmsNorm": True,
}
"""Of a model of 1 B parameters, all of them trained: 12 GB of state, 4 GB of gradients."""
LARGE = ModelStatus.model_validate({"parameters": 1_000_000_000, "shape": SHAPE})
CHECKPOINTED = {
    "method": {"lora": None, "full": {}},
    "output": {"formats": ["Merged"]},
    "training": {"activationCheckpointing": "Enabled", "microBatchSize": 1},
}


def at_the_foot(changes: dict[str, Any] | None = None, **workers: Any) -> Facts:
    """One rank whose micro-batch is 1 and that checkpoints, after a step down the ladder.
    ``changes`` of the spec."""
    before = Adaptation(attempt=0, failure_class="CudaOom", change=WITHOUT_COPY)
    spec = make_spec(**{**CHECKPOINTED, **(changes or {}), "workers": {"count": 1, **workers}})
    resolved = make_plan(spec).resolved.model_copy(update={"adaptations": (before,)})
    return make_facts(status_in(StageName.TRAIN, model=LARGE, resolved=resolved), spec=spec)


def test_offload_is_taken_last_remembered_and_told_to_the_trainer() -> None:
    known = at_the_foot(**ON_GPU["workers"], resources={"limits": {"memory": "64Gi"}})
    verdict = restart_or_end(known, out_of_memory())
    change = "offloadOptimizer None → CPU, zeroStage 0 → 2"
    assert f"with less memory in use: {change}" in verdict.message
    resolved = verdict.changes["resolved"]
    assert resolved.adaptations[-1].change == change
    status = FineTuneJobStatus.model_validate(
        known.status.model_copy(update={"resolved": resolved}).wire()
    )
    plan = plan_training(KEY, UID, known.spec.wire(), status, Platform(Settings()), {})
    assert plan.run_config["offload"] == {"optimizer": "CPU", "parameters": "None"}
    told = plan.resolved
    assert (told.zero_stage, told.offload_optimizer, told.offload_parameters) == (2, "CPU", "None")
    assert told.global_batch_size == known.known_plan.resolved.global_batch_size


@pytest.mark.parametrize(
    ("workers", "failure", "why"),
    [
        pytest.param(
            {},
            out_of_memory("HostOom"),
            "offload moves memory from GPUs to their host, and there is no GPU",
            id="on CPUs",
        ),
        pytest.param(
            {**ON_GPU["workers"], "resources": {"limits": {"memory": "16Gi"}}},
            out_of_memory(),
            "with offloadOptimizer None → CPU, zeroStage 0 → 2 a rank is predicted to need 19.3 GB",
            id="a host that is too small",
        ),
    ],
)
def test_offload_is_not_taken_where_it_cannot_help_and_that_is_said(
    workers: dict[str, Any], failure: Failure, why: str
) -> None:
    verdict = restart_or_end(at_the_foot(**workers), failure)
    assert verdict.state is State.FAILED
    assert f"nothing is left to make smaller after {WITHOUT_COPY}: {why}" in verdict.message


def test_the_foot_of_the_ladder_of_4_bit_weights_is_told() -> None:
    wish = {
        "method": {"lora": {"quantization": "NF4"}},
        "deepspeed": {"offloadOptimizer": "CPU", "zeroStage": 2},
    }
    verdict = restart_or_end(at_the_foot(wish, **ON_GPU["workers"]), out_of_memory())
    assert verdict.state is State.FAILED
    said = "the optimizer is offloaded already, and quantized weights cannot be"
    assert said in verdict.message
