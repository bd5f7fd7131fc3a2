"""The failure digest: the right culprit, the right class, and a sentence that helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import (
    NOW,
    ended_pod,
    failure_words,
    last_words,
    make_child_job,
    make_facts,
    make_pod,
    make_spec,
    seconds,
    status_in,
)

from finetune_operator.api.failures import FAILURE_CLASSES
from finetune_operator.api.types import Progress, StageName
from finetune_operator.observed import ChildPod, Termination
from finetune_operator.policies.failure import digest, find_culprit, tell
from finetune_operator.reports import read_progress

P, T, X = StageName.PREPARE, StageName.TRAIN, StageName.EXPORT
START = NOW.timestamp() - 10


ROOT = Path(__file__).resolve().parents[4]
OVERFULL = 'Container trainer exceeded its local ephemeral storage limit "2Gi".'


def digest_of(*pods: ChildPod, stage: StageName = T, **fields: Any) -> Any:
    failed = {"failure": ("BackoffLimitExceeded", "Job has reached the limit"), **fields}
    job = make_child_job(stage, **failed)
    return digest(make_facts(status_in(stage), jobs=(job,), pods=pods))


@pytest.mark.parametrize("failure", FAILURE_CLASSES, ids=lambda failure: failure.name)
def test_every_exit_code_of_the_table_has_its_class(failure: Any) -> None:
    told = digest_of(ended_pod(0, code=failure.exit_code))
    assert (told.failure_class, told.exit_code) == (failure.name, failure.exit_code)
    assert told.message


@pytest.mark.parametrize(
    ("pod", "name"),
    [
        pytest.param(ended_pod(code=137, reason="OOMKilled"), "HostOom", id="memory limit"),
        pytest.param(
            ended_pod(code=137, words=failure_words(**{"class": "HostOom"})),
            "HostOom",
            id="memory limit, and the launcher lived on to tell",
        ),
        pytest.param(
            ended_pod(code=71, reason="OOMKilled", words=failure_words(**{"class": "CudaOom"})),
            "HostOom",
            id="the kubelet knows better than the trainer what killed a rank",
        ),
        pytest.param(
            ended_pod(
                code=70,
                words=failure_words(**{"class": "Internal", "signature": "HostMemory"}),
            ),
            "HostOom",
            id="the allocator refused",
        ),
        pytest.param(
            ended_pod(
                code=66,
                words=failure_words(**{"class": "ModelLoad", "signature": "HostMemory"}),
            ),
            "ModelLoad",
            id="the allocator refused, and the trainer knew what that meant",
        ),
        pytest.param(ended_pod(code=137), "UnknownFailure", id="a kill is not a lack of memory"),
        pytest.param(ended_pod(code=139), "UnknownFailure", id="a crash without a word"),
        pytest.param(
            ended_pod(code=255, reason="Unknown"), "NodeLost", id="containerd after a restart"
        ),
        pytest.param(
            ended_pod(code=137, reason="ContainerStatusUnknown"),
            "NodeLost",
            id="the kubelet after a restart of the node",
        ),
        pytest.param(ended_pod(code=143), "Evicted", id="asked to stop by nobody of us"),
        pytest.param(ended_pod(code=75, disruption="Preempted"), "Evicted", id="preempted"),
        pytest.param(
            ended_pod(code=75, overfull=OVERFULL, words=failure_words(**{"class": "Preempted"})),
            "EphemeralStorageExceeded",
            id="over its limit of local disk, whatever it says of the signal",
        ),
        pytest.param(
            ended_pod(code=1, words=failure_words(**{"class": "NonFinite"})),
            "NonFinite",
            id="the trainer's own word on an unknown code",
        ),
        pytest.param(
            ended_pod(code=65, words=failure_words(**{"class": "Nonsense"})),
            "BadData",
            id="a class that is not in the table is not believed",
        ),
        pytest.param(ended_pod(code=65, words="not JSON"), "BadData", id="garbage as last words"),
        pytest.param(
            ended_pod(code=65, words="[" * 4000), "BadData", id="garbage nested without end"
        ),
    ],
)
def test_the_class_is(pod: ChildPod, name: str) -> None:
    assert digest_of(pod).failure_class == name


@pytest.mark.parametrize(
    ("pods", "index"),
    [
        pytest.param(
            (
                ended_pod(0, code=74, words=failure_words(at=START)),
                ended_pod(1, code=71, words=failure_words(at=START + 3)),
            ),
            1,
            id="a lost peer is a consequence, even if it was noticed earlier",
        ),
        pytest.param(
            (ended_pod(0, code=143), ended_pod(1, code=1, after=5)),
            1,
            id="so is a pod that was told to stop",
        ),
        pytest.param(
            (
                ended_pod(0, code=71, words=failure_words(at=START + 0.4)),
                ended_pod(1, code=71, words=failure_words(at=START + 0.2)),
            ),
            1,
            id="of two the earlier, finer than the kubelet's seconds",
        ),
        pytest.param(
            (ended_pod(0, code=74, after=2), ended_pod(1, code=74, after=1)),
            1,
            id="if there are only consequences, the first of them",
        ),
        pytest.param(
            (
                ended_pod(0, code=74, after=0),
                ended_pod(1, code=75, after=3, disruption="EvictionByEvictionAPI"),
            ),
            1,
            id="an eviction is a cause",
        ),
        pytest.param((ended_pod(0, code=0), ended_pod(1, code=1)), 1, id="success is no failure"),
    ],
)
def test_the_culprit_is_the_pod_that_failed_first(pods: tuple[ChildPod, ...], index: int) -> None:
    culprit = find_culprit(pods)
    assert culprit is not None and culprit.index == index


def test_nobody_is_the_culprit_where_nobody_failed() -> None:
    assert find_culprit((make_pod(0), ended_pod(1))) is None


def test_the_digest_names_rank_pod_node_code_step_and_the_last_lines() -> None:
    words = failure_words(
        **{"class": "CudaOom", "rank": 3, "step": 87, "hint": "lower microBatchSize"},
        message="out of memory",
        lines=["first", "last"],
        at=START,
    )
    told = digest_of(ended_pod(1, code=71, words=words))
    assert told.wire() == {
        "class": "CudaOom",
        "stage": "train",
        "attempt": 0,
        "rank": 3,
        "pod": "demo-a0-1-abcde",
        "node": "n2",
        "exitCode": 71,
        "step": 87,
        "message": "out of memory",
        "hint": "lower microBatchSize",
        "lines": ["first", "last"],
        "at": "2026-11-23T11:59:50Z",
    }
    assert tell(told) == (
        "train failed with CudaOom (rank 3, pod demo-a0-1-abcde, node n2, exit code 71): "
        "out of memory"
    )


def test_a_pod_with_several_ranks_that_died_without_a_word_names_no_rank() -> None:
    job = make_child_job(T, failure=("", ""))
    spec = make_spec(workers={"ranksPerWorker": 2})
    pods = (ended_pod(1, code=137),)
    assert digest(make_facts(status_in(T), jobs=(job,), pods=pods, spec=spec)).rank is None
    assert digest_of(*pods).rank == 1


def test_a_memory_kill_says_which_field_to_raise() -> None:
    for stage, field in ((P, "spec.prepare"), (T, "spec.workers"), (X, "spec.export")):
        hint = digest_of(ended_pod(0, stage, code=137, reason="OOMKilled"), stage=stage).hint
        assert hint is not None and f"{field}.resources.limits.memory" in hint


def test_plain_text_as_last_words_is_shown_as_lines() -> None:
    assert digest_of(ended_pod(code=1, words="Traceback\nKeyError: 'x'")).lines == (
        "Traceback",
        "KeyError: 'x'",
    )


def test_the_evidence_of_a_pod_that_is_gone_counts() -> None:
    job = make_child_job(T, failure=("BackoffLimitExceeded", "…"))
    gone = (ended_pod(1, code=71, words=failure_words(message="out of memory")),)
    told = digest(make_facts(status_in(T), jobs=(job,), evidence=gone))
    assert (told.failure_class, told.message) == ("CudaOom", "out of memory")


def test_without_any_pod_the_kubernetes_job_is_asked() -> None:
    policy = ("PodFailurePolicy", "Pod team-a/x has condition DisruptionTarget matching FailJob")
    assert digest_of(failure=policy).failure_class == "Evicted"
    other = digest_of(failure=("BackoffLimitExceeded", "Job has reached the limit"))
    assert other.failure_class == "PodLost", "a pod that failed by itself would still be there"
    assert other.message == "a pod is gone and left no word: Job has reached the limit"


def test_a_failure_without_a_pod_keeps_the_time_at_which_it_was_found() -> None:
    job = make_child_job(T, failing=("BackoffLimitExceeded", "…"))
    first = digest(make_facts(status_in(T), jobs=(job,)))
    later = make_facts(status_in(T, failure=first), jobs=(job,), now=NOW + seconds(30))
    assert first.at == NOW and digest(later) == first


REPORTED = read_progress(b'{"attempt": 0, "step": 41, "steps": 90, "updatedAt": 1}')
STORED = Progress(step=40, steps=90, updated_at=NOW - seconds(20))


@pytest.mark.parametrize(
    ("told", "stored", "words", "step"),
    [
        pytest.param(REPORTED, STORED, failure_words(step=42), 42, id="the rank's own word"),
        pytest.param(REPORTED, STORED, None, 41, id="the last answer of rank 0"),
        pytest.param(None, STORED, None, 40, id="as it stands in status after an operator restart"),
        pytest.param(
            read_progress(b'{"attempt": 7, "step": 1, "updatedAt": 1}'),
            Progress(step=40, steps=90, updated_at=NOW - seconds(31)),
            None,
            None,
            id="not what another attempt said",
        ),
        pytest.param(None, None, None, None, id="unknown"),
    ],
)
def test_the_step_is_the_last_one_known_of_the_attempt(
    told: Any, stored: Progress | None, words: Any, step: int | None
) -> None:
    job = make_child_job(T, failure=("BackoffLimitExceeded", "…"))
    status = status_in(T, progress=stored)
    pods = (ended_pod(1, code=137, words=words),)
    assert digest(make_facts(status, jobs=(job,), pods=pods, progress=told)).step == step


def test_words_of_another_kind_carry_no_failure() -> None:
    told = digest_of(ended_pod(code=1, words=last_words(T, "failed")))
    assert told.failure_class == "UnknownFailure"


def test_the_trainers_explanation_is_shown() -> None:
    words = failure_words(
        **{"class": "CudaOom", "signature": "CudaOutOfMemory", "hint": "lower microBatchSize"},
        message="out of memory",
        cause="A GPU had no room.",
    )
    told = digest_of(ended_pod(1, code=71, words=words))
    assert (told.signature, told.cause) == ("CudaOutOfMemory", "A GPU had no room.")
    assert told.hint == "lower microBatchSize"
    assert tell(told).endswith("out of memory - A GPU had no room.")


def test_memory_that_was_refused_keeps_the_trainers_explanation_and_gets_the_stages_hint() -> None:
    words = failure_words(
        **{"class": "Internal", "signature": "HostMemory", "hint": "of any stage"},
        message="DefaultCPUAllocator: can't allocate memory",
        cause="The pod had no memory left for what was asked of it.",
    )
    told = digest_of(ended_pod(1, code=70, words=words))
    assert (told.failure_class, told.signature) == ("HostOom", "HostMemory")
    assert told.cause and told.message == "DefaultCPUAllocator: can't allocate memory"
    assert told.hint is not None and "spec.workers.resources.limits.memory" in told.hint


def test_the_kubelets_word_on_memory_replaces_the_trainers_explanation() -> None:
    words = failure_words(**{"class": "CudaOom", "signature": "CudaOutOfMemory", "hint": "no"})
    told = digest_of(ended_pod(0, code=71, reason="OOMKilled", words=words))
    assert (told.failure_class, told.signature, told.cause) == ("HostOom", None, None)
    assert told.hint is not None and "spec.workers.resources.limits.memory" in told.hint


@pytest.mark.parametrize(
    ("words", "signature", "hint"),
    [
        ('exec: "train": executable file not found in $PATH', "ImageCommand", "trainer.image"),
        ("ModuleNotFoundError: No module named 'torch'", "ModuleMissing", "trainer.image"),
        ("KeyError: 'x'", None, None),
    ],
)
def test_words_that_are_no_record_are_explained_here(
    words: str, signature: str | None, hint: str | None
) -> None:
    told = digest_of(ended_pod(0, code=128, words=words))
    assert told.signature == signature
    assert (hint is None) == (told.hint is None)
    assert hint is None or hint in told.hint
    assert told.failure_class == "UnknownFailure"


def test_an_explanation_without_bounds_is_cut() -> None:
    words = failure_words(
        **{"class": "CudaOom", "signature": "s" * 100}, cause="c" * 1500, message="m" * 1500
    )
    told = digest_of(ended_pod(0, code=71, words=words))
    assert told.cause is not None and len(told.cause) == len(told.message) == 1024
    assert digest_of(ended_pod(code=71, words=failure_words(signature="s" * 200))).signature is None


@pytest.mark.parametrize(
    ("end", "stuck", "name", "says"),
    [
        pytest.param(
            Termination(3, "Error", "loading\nno dictionary\n", NOW),
            "augment",
            "BadData",
            "spec.data.augment: the container ended with exit code 3: no dictionary",
            id="its own failure",
        ),
        pytest.param(
            Termination(137, "OOMKilled", "", NOW),
            "augment",
            "BadData",
            "spec.data.augment: the container went over its memory limit",
            id="its own memory",
        ),
        pytest.param(
            Termination(137, "ContainerStatusUnknown", "", NOW),
            "augment",
            "NodeLost",
            "",
            id="the node restarted",
        ),
        pytest.param(Termination(137, "OOMKilled", "", NOW), "fetch", "HostOom", "", id="ours"),
    ],
)
def test_a_container_for_the_rows_that_fails_is_named(
    end: Termination, stuck: str, name: str, says: str
) -> None:
    pod = make_pod(0, P, phase="Failed", ready=False, terminated=end, stuck_in=stuck)
    failed = make_child_job(P, failure=("BackoffLimitExceeded", "too many failures"))
    failure = digest(make_facts(status_in(P), jobs=(failed,), pods=(pod,)))
    assert failure.failure_class == name
    assert says in (failure.message or "")


@pytest.mark.parametrize("stage", list(StageName))
def test_a_pod_over_its_local_disk_is_told_with_the_field_of_its_stage(stage: StageName) -> None:
    told = digest_of(ended_pod(0, stage, code=137, overfull=OVERFULL), stage=stage)
    assert told.failure_class == "EphemeralStorageExceeded"
    assert told.message == f"the pod used more local disk than its limit allows: {OVERFULL}"
    fields = (ROOT / "tests/golden/api_fields.txt").read_text().splitlines()
    field = told.hint.split(" in ")[1].split(";")[0]
    assert f"{field}.limits{{}}" in {line.split()[0] for line in fields}
    shm = 'Usage of EmptyDir volume "shm" exceeds the limit "1Gi".'
    assert digest_of(ended_pod(code=137, overfull=shm)).hint == "raise spec.workers.sharedMemory"


@pytest.mark.parametrize("code", [143, 75, None])
def test_a_pod_over_its_local_disk_is_guilty_before_those_that_lost_it(code: int | None) -> None:
    first = ended_pod(0, code=74, after=1)
    second = make_pod(1, overfull=OVERFULL)
    if code is not None:
        second = ended_pod(1, code=code, after=3, overfull=OVERFULL)
    told = digest_of(first, second)
    assert (told.pod, told.failure_class) == (second.name, "EphemeralStorageExceeded")
