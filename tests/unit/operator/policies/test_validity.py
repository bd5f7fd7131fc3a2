"""Claims, templates and other jobs that a spec names: missing, wrong, or not ready."""

from __future__ import annotations

from typing import Any

import pytest
from builders import make_plan, make_spec

from finetune_operator.api.types import StageName
from finetune_operator.policies.validity import Claim, Surroundings, find_obstacle
from finetune_operator.sources import ResolvedOutput

SHARED = Claim(("ReadWriteMany",))
SINGLE = Claim(("ReadWriteOnce",))
ALL = {"models": SHARED, "datasets": SINGLE, "work": SHARED, "results": SINGLE}
FROM_JOB = make_spec(model={"uri": "job://base"})
FROM_CHECKPOINT = make_spec(model={"uri": "job://base", "checkpoint": {"last": {}}})
TEMPLATED = make_spec(model={"chatTemplate": {"configMapKeyRef": {"name": "t", "key": "jinja"}}})


@pytest.mark.parametrize(
    ("spec", "around", "reason", "part"),
    [
        pytest.param(
            make_spec(),
            Surroundings({**ALL, "work": None}),
            "ClaimNotFound",
            "spec.storage.claimRef.name: PersistentVolumeClaim work does not exist",
            id="the claim of the files is missing",
        ),
        pytest.param(
            make_spec(),
            Surroundings({**ALL, "datasets": None}),
            "ClaimNotFound",
            "spec.data.train[0].uri: PersistentVolumeClaim datasets",
            id="the claim of a source is missing",
        ),
        pytest.param(
            make_spec(output={"uri": "pvc://results/x"}),
            Surroundings({**ALL, "results": None}),
            "ClaimNotFound",
            "spec.output.uri",
            id="the claim of the result is missing",
        ),
        pytest.param(
            make_spec(),
            Surroundings({**ALL, "work": SINGLE}),
            "ClaimNotShared",
            "work is ReadWriteOnce and 2 workers write to it",
            id="two workers need a shared claim",
        ),
        pytest.param(
            make_spec(workers={"count": 1}, recovery={"elastic": {"min": 1, "max": 2}}),
            Surroundings({**ALL, "work": SINGLE}),
            "ClaimNotShared",
            "up to 2 workers write to it: use a ReadWriteMany claim, or recovery.elastic.max: 1",
            id="two may become of one",
        ),
        pytest.param(
            TEMPLATED,
            Surroundings(ALL, template_keys=None),
            "SourceNotFound",
            "ConfigMap t does not exist",
            id="the chat template's ConfigMap is missing",
        ),
        pytest.param(
            TEMPLATED,
            Surroundings(ALL, template_keys=frozenset({"other"})),
            "SourceNotFound",
            "has no key jinja",
            id="the chat template's key is missing",
        ),
        pytest.param(
            FROM_JOB, Surroundings(ALL), "SourceNotFound", "does not exist", id="no such job"
        ),
        pytest.param(
            FROM_JOB,
            Surroundings(ALL, source_phase="Training"),
            "SourceNotReady",
            "has not succeeded yet (it is Training)",
            id="the other job is not done",
        ),
        pytest.param(
            FROM_JOB,
            Surroundings(ALL, source_phase="Failed"),
            "SourceNotReady",
            "has failed",
            id="the other job failed",
        ),
        pytest.param(
            FROM_JOB,
            Surroundings(ALL, source_phase="Succeeded", source_fault="has published nothing"),
            "SourceNotReady",
            "spec.model.uri: FineTuneJob base has published nothing",
            id="the other job has nothing to start from",
        ),
        pytest.param(
            FROM_CHECKPOINT,
            Surroundings(ALL, source_phase="Training"),
            "SourceNotReady",
            "has not ended yet (it is Training): waiting for it",
            id="checkpoints are taken once the other job has ended",
        ),
        pytest.param(
            FROM_CHECKPOINT,
            Surroundings(ALL, source_phase="Failed", source_fault="has saved no checkpoint"),
            "SourceNotReady",
            "spec.model.checkpoint: FineTuneJob base has saved no checkpoint",
            id="the other job has no checkpoint",
        ),
    ],
)
def test_an_obstacle_is_named_with_its_field(
    spec: Any, around: Surroundings, reason: str, part: str
) -> None:
    obstacle = find_obstacle(make_plan(spec), StageName.PREPARE, around)
    assert obstacle is not None
    assert obstacle.reason == reason
    assert part in obstacle.message


@pytest.mark.parametrize(
    ("spec", "around"),
    [
        pytest.param(make_spec(), Surroundings(ALL), id="everything is there"),
        pytest.param(
            make_spec(workers={"count": 1}),
            Surroundings({**ALL, "work": SINGLE}),
            id="one worker needs no shared claim",
        ),
        pytest.param(
            TEMPLATED, Surroundings(ALL, frozenset({"jinja"})), id="the template is there"
        ),
    ],
)
def test_nothing_stands_in_the_way(spec: Any, around: Surroundings) -> None:
    assert find_obstacle(make_plan(spec), StageName.PREPARE, around) is None


def test_a_finished_job_with_a_model_is_a_source() -> None:
    around = Surroundings({**ALL, "other": SHARED}, source_phase="Succeeded")
    plan = make_plan(FROM_JOB, outputs={"base": ResolvedOutput("other", "x/merged")})
    assert find_obstacle(plan, StageName.PREPARE, around) is None


def test_a_failed_job_is_a_source_of_checkpoints() -> None:
    around = Surroundings({**ALL, "other": SHARED}, source_phase="Failed")
    plan = make_plan(FROM_CHECKPOINT, outputs={"base": ResolvedOutput("other", "x", step=4)})
    assert find_obstacle(plan, StageName.PREPARE, around) is None


def test_the_claim_of_the_base_of_an_adapter_has_to_be_there() -> None:
    around = Surroundings({**ALL, "gone": None}, source_phase="Succeeded")
    output = ResolvedOutput("work", "x/adapter", base=("gone", "y/model"))
    obstacle = find_obstacle(
        make_plan(FROM_JOB, outputs={"base": output}), StageName.PREPARE, around
    )
    assert obstacle is not None and obstacle.reason == "ClaimNotFound"
    assert "spec.model.uri: PersistentVolumeClaim gone does not exist" in obstacle.message


def test_sources_do_not_matter_once_the_data_is_prepared() -> None:
    gone = Surroundings({**ALL, "datasets": None, "models": None})
    assert find_obstacle(make_plan(), StageName.TRAIN, gone) is None
    without_files = Surroundings({**ALL, "work": None})
    assert find_obstacle(make_plan(), StageName.TRAIN, without_files) is not None
