"""The job as a whole, and the display fields of its status."""

from __future__ import annotations

import pytest
from api_cases import edited, sample
from pydantic import ValidationError

from finetune_operator.api.conditions import REASONS, Condition, ConditionType, Reason
from finetune_operator.api.failures import BY_EXIT_CODE, FAILURE_CLASSES, Budget
from finetune_operator.api.progress import Progress, duration
from finetune_operator.api.spec import MUTABLE, FineTuneJobSpec
from finetune_operator.api.status import FineTuneJobStatus
from finetune_operator.api.status_types import StageName
from finetune_operator.api.types import MAX_NAME, FineTuneJob
from finetune_operator.api.workers import MAX_WORKERS, Workers


def test_host_names_of_the_longest_name_are_dns_labels() -> None:
    host = f"{'a' * MAX_NAME}-a99999-{MAX_WORKERS - 1}"

    assert len(host) == 63


def test_all_faults_of_a_spec_are_told_at_once() -> None:
    wrong = edited(
        sample("minimal"), {"spec.workers.count": 0, "spec.training.learningRate": "high"}
    )
    with pytest.raises(ValidationError) as told:
        FineTuneJob.model_validate(wrong)

    assert {".".join(map(str, fault["loc"])) for fault in told.value.errors()} == {
        "spec.workers.count",
        "spec.training.learningRate",
    }


@pytest.mark.parametrize(
    "workers, ranks, world",
    [({"count": 2, "gpusPerWorker": 4}, 4, 8), ({"count": 3, "ranksPerWorker": 2}, 2, 6)],
)
def test_each_gpu_has_a_rank_and_cpu_ranks_are_counted(
    workers: dict[str, int], ranks: int, world: int
) -> None:
    parsed = Workers.model_validate(workers)

    assert (parsed.ranks_per_pod, parsed.world_size) == (ranks, world)


def test_what_may_change_exists() -> None:
    assert set(FineTuneJobSpec.model_fields) > MUTABLE


def test_a_job_that_nobody_has_seen_says_so() -> None:
    assert FineTuneJobStatus().wire() == {"observedGeneration": -1}


@pytest.mark.parametrize(
    "step, steps, percent, summary",
    [
        (0, 90, 0, "0% (0/90)"),
        (40, 90, 44, "44% (40/90)"),
        (89, 90, 98, "98% (89/90)"),
        (90, 90, 100, "100% (90/90)"),
        (91, 90, 100, "100% (91/90)"),
        (5, None, None, None),
        (5, 0, None, None),
        (None, 90, None, None),
    ],
)
def test_progress_is_counted_in_whole_percent(
    step: int | None, steps: int | None, percent: int | None, summary: str | None
) -> None:
    progress = Progress(stage=StageName.TRAIN, step=step, steps=steps)

    assert (progress.percent, progress.summary) == (percent, summary)


def test_display_fields_are_stored_and_not_read_back() -> None:
    progress = Progress(step=1, steps=4, eta_seconds=812)
    stored = progress.wire()

    assert stored == {
        "step": 1,
        "steps": 4,
        "etaSeconds": 812,
        "percent": 25,
        "summary": "25% (1/4)",
        "eta": "13m32s",
    }
    assert Progress.model_validate(stored) == progress


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0s"), (59, "59s"), (60, "1m0s"), (812, "13m32s"), (3600, "1h0m"), (7500, "2h5m"),
     (86_399, "23h59m"), (86_400, "1d0h"), (273_600, "3d4h")],
)  # fmt: skip
def test_a_duration_has_two_units(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def test_reasons_are_words_that_kubernetes_takes() -> None:
    for reason in REASONS:
        Condition(
            type=ConditionType.STALLED,
            status="True",
            last_transition_time="2026-11-23T06:00:00Z",  # type: ignore[arg-type]
            reason=reason,
            message="",
        )


def test_failure_classes_and_reasons_do_not_overlap() -> None:
    assert not {reason.value for reason in Reason} & {failure.name for failure in FAILURE_CLASSES}


def test_exit_codes_are_distinct_and_of_the_program_alone() -> None:
    """Below 64 are the shell's and Python's, from 128 on the signals'; 42 is not used."""
    assert len(BY_EXIT_CODE) == len(FAILURE_CLASSES)
    assert all(64 <= code <= 113 for code in BY_EXIT_CODE)


@pytest.mark.parametrize(
    "name, code, budget",
    [
        ("ConfigInvalid", 64, Budget.NONE),
        ("BadData", 65, Budget.NONE),
        ("ModelLoad", 66, Budget.NONE),
        ("NoValidCheckpoint", 67, Budget.NONE),
        ("Internal", 70, Budget.PROGRAM),
        ("CudaOom", 71, Budget.PROGRAM),
        ("NonFinite", 72, Budget.PROGRAM),
        ("DiskFull", 73, Budget.NONE),
        ("CollectiveTimeout", 74, Budget.INFRASTRUCTURE),
        ("Preempted", 75, Budget.INFRASTRUCTURE),
        ("Hang", 76, Budget.INFRASTRUCTURE),
        ("HardwareFault", 77, Budget.INFRASTRUCTURE),
        ("Rendezvous", 78, Budget.INFRASTRUCTURE),
        ("LossSpike", 79, Budget.PROGRAM),
        ("GateFailed", 80, Budget.NONE),
    ],
)
def test_an_exit_code_never_changes_its_meaning(name: str, code: int, budget: Budget) -> None:
    failure = BY_EXIT_CODE[code]

    assert (failure.name, failure.budget) == (name, budget)
