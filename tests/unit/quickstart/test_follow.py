"""Following a job: what is said while it runs, and how waiting ends."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any, cast

import pytest
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from quickstart import follow
from quickstart.errors import QuickstartError
from quickstart.follow import Follower, JobFailedError, Status
from quickstart.kube import Kube
from quickstart.stages import Reporter


def conditions(**status: str) -> list[dict[str, str]]:
    return [{"type": type_, "status": value} for type_, value in status.items()]


class Cluster:
    """A Kube that answers with a list of statuses, and whose time passes by sleeping."""

    def __init__(self, *answers: Status | Exception | None) -> None:
        self._answers: Iterator[Any] = chain(answers, repeat(answers[-1]))
        self.now = 0.0
        self.said: list[str] = []

    def get(self, *_: Any) -> Any:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return None if answer is None else {"status": answer}

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def report(self, text: str, fraction: float | None = None) -> None:
        self.said.append(text)

    def until(self, reached: Any) -> Status:
        follower = Follower(cast(Kube, self), "facts", clock=lambda: self.now, sleep=self.sleep)
        return follower.until(reached, cast(Reporter, self.report))


SEEN: Status = {"observedGeneration": 1, "phase": "Preparing"}
PREPARED: Status = {**SEEN, "prepared": "2026-01-01T00:00:00Z"}
FAILED: Status = {
    "observedGeneration": 1,
    "conditions": conditions(Succeeded="False", Failed="True"),
    "failure": {
        "class": "CudaOom", "stage": "train", "rank": 1, "pod": "facts-a0-1", "node": "n2",
        "exitCode": 71, "message": "the GPU ran out of memory",
        "hint": "lower spec.training.microBatchSize", "lines": ["last words"],
    },
}  # fmt: skip


def test_it_returns_the_first_status_that_has_reached_the_moment() -> None:
    assert Cluster({}, SEEN, PREPARED).until(follow.prepared) == PREPARED


@pytest.mark.parametrize(
    ("status", "reached"),
    [
        ({"phase": "Starting"}, False),
        ({"phase": "Training"}, True),
        ({"phase": "Exporting", "trained": "2026-01-01T00:00:00Z"}, True),
    ],
)
def test_training_is_reached_while_it_trains_and_when_it_has(status: Status, reached: bool) -> None:
    assert follow.training(status) is reached


def test_a_failed_job_ends_with_its_digest() -> None:
    with pytest.raises(JobFailedError) as caught:
        Cluster(SEEN, FAILED).until(follow.trained)
    text = str(caught.value)
    for part in ("CudaOom", "rank 1", "pod facts-a0-1", "node n2", "exit code 71",
                 "the GPU ran out of memory", "microBatchSize", "last words"):  # fmt: skip
        assert part in text


def test_a_failure_without_digest_shows_the_condition() -> None:
    failed = {"type": "Failed", "status": "True", "reason": "ClaimNotFound", "message": "no claim"}
    with pytest.raises(JobFailedError, match="ClaimNotFound: no claim"):
        Cluster({"conditions": [failed]}).until(follow.trained)


def test_a_pending_reason_is_shown_and_waiting_for_it_has_an_end() -> None:
    cluster = Cluster({**SEEN, "pendingReason": "0/3 nodes have enough memory"})
    with pytest.raises(QuickstartError, match=r"waited for 600 s: 0/3 nodes"):
        cluster.until(follow.prepared)
    assert cluster.said[0] == "0/3 nodes have enough memory"


def test_an_api_server_that_is_away_for_a_moment_is_asked_again() -> None:
    away = [HTTPError("refused"), ApiException(status=503)] * 20
    assert Cluster(SEEN, *away, PREPARED).until(follow.prepared) == PREPARED


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (HTTPError("refused"), "API server has not answered for 90 s"),
        ({}, "operator has not looked at the job for 90 s"),
        (None, "was deleted while it was followed"),
        (ApiException(status=403, reason="Forbidden"), "refuses to show the job: Forbidden"),
    ],
)
def test_waiting_for_nothing_ends_with_a_sentence(
    answer: Status | Exception | None, says: str
) -> None:
    with pytest.raises(QuickstartError, match=says):
        Cluster(answer).until(follow.prepared)


def test_training_shows_step_losses_speed_and_time_left() -> None:
    status: Status = {
        "phase": "Training",
        "progress": {"step": 12, "steps": 48, "etaSeconds": 130, "tokensPerSecond": "182.4"},
        "metrics": {"loss": "1.913", "evalLoss": "2.05"},
    }
    assert follow.describe(status) == (
        "step 12 of 48, loss 1.91, held-out 2.05, 182 tokens/s, 2:10 left"
    )
    assert follow.fraction(status) == 0.25


def test_outside_training_there_is_no_bar() -> None:
    assert follow.fraction({"phase": "Exporting", "progress": {"step": 48, "steps": 48}}) is None


def test_the_summary_of_prepare_names_model_and_rows() -> None:
    status: Status = {
        "model": {"architecture": "LlamaForCausalLM", "parameters": 134_515_008},
        "data": {"kept": 300, "tokens": 14_786, "evalRows": 50},
    }
    assert follow.summary(status) == (
        "LlamaForCausalLM with 135 M, 300 rows, 14786 tokens, 50 held out"
    )


def test_the_losses_of_both_models_come_from_the_metrics() -> None:
    status: Status = {"metrics": {"evalLoss": "0.09", "baseline": {"evalLoss": "4.17"}}}
    assert follow.held_out_losses(status) == (4.17, 0.09)


@pytest.mark.parametrize("metrics", [{}, {"evalLoss": "0.09"}, {"baseline": {"evalLoss": "4.1"}}])
def test_a_job_without_both_losses_cannot_be_judged(metrics: Status) -> None:
    with pytest.raises(QuickstartError, match="cannot be judged"):
        follow.held_out_losses({"metrics": metrics})
