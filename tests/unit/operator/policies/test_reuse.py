"""The lock, and when a result that is there already stands for training."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from builders import (
    NOW,
    ended_pod,
    last_words,
    main_condition,
    make_child_job,
    make_facts,
    make_job,
    make_pod,
    make_spec,
    merged,
    status_in,
)

from finetune_operator.api.types import FineTuneJobStatus, Lock, Reused, StageName
from finetune_operator.objects.export_job import REUSED_PATH, build_export_job
from finetune_operator.policies.facts import Facts, PublishedResult, Verb
from finetune_operator.policies.lock import lock_of, spec_digest
from finetune_operator.policies.reuse import published_result, twin, wants_results
from finetune_operator.reports import read_last_words
from finetune_operator.status import decide

P, T, X = StageName.PREPARE, StageName.TRAIN, StageName.EXPORT
VERSIONS = {"torch": "2.15.0"}
MADE = {
    "model": {"digest": "sha256:m", "commit": "abc"},
    "data": {"digest": "sha256:d"},
    "steps": 90,
    "versions": VERSIONS,
}
WISH = make_spec(output={"reuse": "SameLock"})
IMAGE = "example.test/trainer@sha256:" + "a" * 64


def prepared(spec: Any = None, words: Any = None, pod: Any = None, **fields: Any) -> Facts:
    """The pass in which prepare is found to be complete."""
    ended = ended_pod(stage=P, words=last_words(P, **{**MADE, **(words or {})}), **(pod or {}))
    job = make_child_job(P, complete=True)
    return make_facts(status_in(P), spec=spec or WISH, jobs=(job,), pods=(ended,), **fields)


def lock_in(facts: Facts) -> Lock:
    pod = facts.stage.pods[0]
    assert pod.terminated
    lock = lock_of(facts, read_last_words(pod.terminated.message), facts.known_plan.fit)
    assert lock is not None
    return lock


def result(**fields: Any) -> PublishedResult:
    known: dict[str, Any] = {
        "job": "earlier",
        "uid": "uid-earlier",
        "lock": lock_in(prepared()).digest,
        "claim": "work",
        "path": "team-a/uid-earlier/output",
        "formats": frozenset({"Merged"}),
        "completed": NOW,
    }
    return PublishedResult(**{**known, **fields})


def stored(decision: Any) -> FineTuneJobStatus:
    return FineTuneJobStatus.model_validate(decision.status)


CHANGES_THE_RESULT = [
    {"training": {"seed": 43}},
    {"training": {"learningRate": "1e-4"}},
    {"training": {"globalBatchSize": 32}},
    {"method": {"lora": {"rank": 8}}},
    {"workers": {"count": 1}},
    {"evaluation": {"everySteps": 10}},
    {"gate": {"scores": [{"metric": "EvalLoss", "atMost": "1"}]}},
    {"recovery": {"onLossSpike": "Skip"}},
]
CHANGES_NOTHING = [
    {"output": {"uri": "pvc://other/place"}},
    {"recovery": {"maxRestarts": 9}},
    {"checkpoint": {"everySteps": 10}},
    {"workers": {"nodeSelector": {"a": "b"}}},
    {"storage": {"claimRef": {"name": "elsewhere"}}},
    {"model": {"uri": "pvc://models/copy"}},
    {"ttlSecondsAfterFinished": 5},
]


@pytest.mark.parametrize("patch", CHANGES_THE_RESULT, ids=str)
def test_what_changes_the_result_changes_the_lock(patch: dict[str, Any]) -> None:
    changed = prepared(merged(WISH, patch))
    assert spec_digest(changed.known_plan) != spec_digest(prepared().known_plan)
    assert twin(changed.known_plan, lock_in(changed), [result()]) is None


def test_offload_changes_the_lock_of_those_that_ask_for_it_alone() -> None:
    """On a GPU the optimizer's arithmetic is another one than on the host."""
    gpu = merged(WISH, {"workers": {"ranksPerWorker": None, "gpusPerWorker": 1}})
    plain = prepared(merged(gpu, {"deepspeed": {"zeroStage": 2}})).known_plan
    moved = prepared(
        merged(gpu, {"deepspeed": {"zeroStage": 2, "offloadOptimizer": "CPU"}})
    ).known_plan
    assert spec_digest(moved) != spec_digest(plain)
    assert "offload" not in plain.run_config, "digests of earlier jobs stay what they were"


@pytest.mark.parametrize("patch", CHANGES_NOTHING, ids=str)
def test_names_places_and_resources_do_not(patch: dict[str, Any]) -> None:
    assert lock_in(prepared(merged(WISH, patch))).digest == lock_in(prepared()).digest


def test_where_ratings_are_looked_for_is_not_part_of_the_lock() -> None:
    """Without a name in the spec it is made from the job's own."""

    def digest(**human: Any) -> str:
        asked = {"generation": {"metrics": ["BLEU"]}, "human": human}
        return lock_in(prepared(make_spec(evaluation=asked))).digest

    assert digest() == digest(configMap="another-job-s")


@pytest.mark.parametrize(
    "words",
    [
        {"model": {"digest": "sha256:other"}},
        {"data": {"digest": "sha256:other"}},
        {"versions": {"torch": "2.16.0"}},
    ],
    ids=str,
)
def test_model_data_and_versions_are_part_of_the_lock(words: dict[str, Any]) -> None:
    assert lock_in(prepared(words=words)).digest != lock_in(prepared()).digest


def test_the_image_counts_by_its_digest_where_the_node_tells_it() -> None:
    lock = lock_in(prepared(pod={"image_id": IMAGE}))
    assert lock.image == "example.test/trainer:1"
    assert lock.image_digest == "sha256:" + "a" * 64
    other = lock_in(prepared(pod={"image_id": IMAGE[:-1] + "b"}))
    assert len({lock.digest, other.digest, lock_in(prepared()).digest}) == 3


def test_the_lock_is_written_with_the_end_of_prepare() -> None:
    status = stored(decide(prepared(make_spec())))
    assert status.lock == lock_in(prepared(make_spec()))
    assert (status.lock.seed, status.lock.model_commit) == (42, "abc")


@pytest.mark.parametrize("words", [{"model": None}, {"data": {"rows": 4}}], ids=str)
def test_without_digests_there_is_no_lock_and_the_job_trains(words: dict[str, Any]) -> None:
    status = stored(decide(prepared(words=words, results=(result(),))))
    assert (status.lock, status.reused, status.attempt) == (None, None, 0)


def test_the_same_lock_leads_from_prepare_to_export_without_a_training_pod() -> None:
    decision = decide(prepared(results=(result(),)))
    status = stored(decision)
    assert decision.irrevocable
    assert (status.attempt, status.export_attempt, status.trained) == (None, 0, None)
    assert status.reused == Reused(job="earlier", uid="uid-earlier", path=result().path)
    assert "same lock as FineTuneJob earlier" in main_condition(decision.status)["message"]

    facts = make_facts(status, spec=WISH)
    [*_, create] = decide(facts).actions
    assert (create.verb, create.name) == (Verb.CREATE, "demo-x0")
    running = make_facts(status, spec=WISH, jobs=(make_child_job(X),), pods=(make_pod(stage=X),))
    assert (
        main_condition(decide(running).status)["message"]
        == main_condition(decision.status)["message"]
    )


def test_a_reused_result_succeeds_and_says_so() -> None:
    status = stored(decide(prepared(results=(result(),))))
    numbers = {"step": 90, "metrics": {"evalLoss": 1.5}}
    words = last_words(X, artifact={"digest": "sha256:r", "bytes": 5, "step": 60}, train=numbers)
    job, pod = make_child_job(X, complete=True), ended_pod(stage=X, words=words)
    decision = decide(make_facts(status, spec=WISH, jobs=(job,), pods=(pod,)))
    done = stored(decision)
    assert done.phase == "Succeeded"
    assert (
        "that of FineTuneJob earlier, which has the same lock"
        in (main_condition(decision.status, "Succeeded")["message"])
    )
    assert done.artifact and (done.artifact.step, done.artifact.digest) == (60, "sha256:r")
    assert done.metrics and done.metrics.eval_loss == "1.5"
    assert done.goodput and done.goodput.gpu_seconds == 0


def test_a_result_that_is_refused_leads_to_training_and_the_next_export_number() -> None:
    status = stored(decide(prepared(results=(result(),))))
    words = last_words(X, refused="merged: model.safetensors does not agree with its hash")
    job, pod = make_child_job(X, complete=True), ended_pod(stage=X, words=words)
    after = stored(decide(make_facts(status, spec=WISH, jobs=(job,), pods=(pod,))))
    assert (after.phase, after.attempt, after.artifact) == ("Starting", 0, None)
    assert after.reused and after.reused.refused == words["refused"]

    done = make_child_job(T, complete=True)
    ended = ended_pod(stage=T, words=last_words(T, step=90, steps=90))
    trained = stored(decide(make_facts(after, spec=WISH, jobs=(job, done), pods=(ended,))))
    assert trained.export_attempt == 1


@pytest.mark.parametrize(
    ("spec", "other"),
    [
        pytest.param(make_spec(), {}, id="not asked for"),
        pytest.param(WISH, {"claim": "other"}, id="on another claim"),
        pytest.param(WISH, {"lock": "sha256:other"}, id="of another lock"),
        pytest.param(WISH, {"formats": frozenset({"Adapter"})}, id="in another form"),
        pytest.param(
            make_spec(output={"reuse": "SameLock", "uri": "pvc://results/x"}),
            {},
            id="not on the claim of this job's result",
        ),
    ],
)
def test_a_result_is_not_taken(spec: Any, other: dict[str, Any]) -> None:
    facts = prepared(spec)
    assert twin(facts.known_plan, lock_in(facts), [result(**other)]) is None
    assert stored(decide(prepared(spec, results=(result(**other),)))).attempt == 0


def test_the_newest_of_several_results_is_taken() -> None:
    facts = prepared()
    old = result(uid="old", completed=NOW - timedelta(hours=1))
    assert twin(facts.known_plan, lock_in(facts), [old, result(), old]) == result()


def test_what_lies_at_its_place_already_is_taken_though_its_job_is_gone() -> None:
    spec = make_spec(output={"reuse": "SameLock", "uri": "pvc://results/x"})
    lock = lock_in(prepared(spec)).digest
    found = {"job": "gone", "uid": "u", "lock": lock, "formats": ["Merged"]}
    status = stored(decide(prepared(spec, {"published": found})))
    assert status.reused == Reused(job="gone", uid="u", path="x")
    other = stored(decide(prepared(spec, {"published": {**found, "lock": "sha256:other"}})))
    assert (other.reused, other.attempt) == (None, 0)
    broken = stored(decide(prepared(spec, {"published": {"job": 5}})))
    assert (broken.reused, broken.attempt, broken.lock is None) == (None, 0, False)


def test_results_are_looked_for_only_when_it_has_to_be_decided() -> None:
    assert wants_results(prepared())
    assert not wants_results(prepared(make_spec()))
    assert not wants_results(make_facts(status_in(P), spec=WISH, jobs=(make_child_job(P),)))
    done = make_child_job(T, complete=True)
    assert not wants_results(make_facts(status_in(T), spec=WISH, jobs=(done,)))


def test_only_a_finished_job_with_a_lock_has_a_result() -> None:
    whole = {
        "phase": "Succeeded",
        "completionTime": "2026-11-23T12:00:00Z",
        "lock": lock_in(prepared()).wire(),
        "artifact": {"uri": "pvc://work/a/b", "path": "a/b", "formats": ["Merged"]},
    }

    def read(**patch: Any) -> PublishedResult | None:
        status = merged(whole, patch)
        return published_result(make_job(None, status), FineTuneJobStatus.model_validate(status))

    found = read()
    assert found and (found.claim, found.path, found.formats) == ("work", "a/b", {"Merged"})
    for lack in ({"lock": None}, {"artifact": None}, {"phase": "Failed"}):
        assert read(**lack) is None


def test_the_export_pod_sees_the_other_result_and_the_lock() -> None:
    facts = prepared()
    reused = Reused(job="earlier", uid="u", path="team-a/u/output")
    plan = replace(facts.known_plan, lock=lock_in(facts), reused=reused)
    container = build_export_job(plan, 0, None)["spec"]["template"]["spec"]["containers"][0]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert env["FINETUNE_REUSE"] == "earlier"
    assert lock_in(facts).digest in env["FINETUNE_LOCK"]
    assert {
        "name": "workspace",
        "mountPath": REUSED_PATH,
        "subPath": "team-a/u/output",
        "readOnly": True,
    } in container["volumeMounts"]
