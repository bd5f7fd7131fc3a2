"""What of another job is the model of this one, and the lineage that follows."""

from __future__ import annotations

from typing import Any

import pytest
from builders import NOW, make_job, make_spec, merged

from finetune_operator.api.lineage import MAX_ANCESTORS
from finetune_operator.api.types import FineTuneJobStatus, ModelCheckpoint
from finetune_operator.policies.ancestry import output_of
from finetune_operator.sources import ResolvedOutput

UID = "11111111-2222-3333-4444-555555555555"
DONE: dict[str, Any] = {
    "phase": "Succeeded",
    "completionTime": "2026-11-23T12:00:00Z",
    "model": {"digest": "sha256:base", "commit": "abc"},
    "data": {"digest": "sha256:rows"},
    "checkpoints": {"latest": {"step": 90}, "best": {"step": 60}},
    "artifact": {
        "uri": "pvc://results/bot",
        "path": "bot",
        "digest": "sha256:result",
        "step": 90,
        "formats": ["Adapter", "Merged"],
    },
}
BEST, LAST = (
    ModelCheckpoint.model_validate({"best": {}}),
    ModelCheckpoint.model_validate({"last": {}}),
)


def found(
    wish: ModelCheckpoint | None = None, spec: dict[str, Any] | None = None, **patch: Any
) -> ResolvedOutput | str:
    status = merged(DONE, patch)
    job = make_job(spec or make_spec(), status)
    return output_of(job, FineTuneJobStatus.model_validate(status), wish)


def used(*arguments: Any, **patch: Any) -> ResolvedOutput:
    output = found(*arguments, **patch)
    assert isinstance(output, ResolvedOutput), output
    return output


def test_the_merged_model_is_taken_where_there_is_one() -> None:
    output = used()
    assert (output.claim, output.path, output.base) == ("results", "bot/merged", None)
    assert output.told("first")["kind"] == "Merged"


def test_an_adapter_comes_with_the_model_that_it_belongs_to() -> None:
    output = used(artifact={"formats": ["Adapter"]})
    assert (output.claim, output.path) == ("results", "bot/adapter")
    assert output.base == ("work", f"team-a/{UID}/model")
    told = output.told("first")
    assert (told["kind"], told["basePath"]) == ("Adapter", "/sources/model-base")


def test_the_base_of_a_job_with_its_own_claim_lies_there() -> None:
    spec = make_spec(storage={"claimRef": None, "size": "1Gi"})
    assert used(None, spec, artifact={"formats": ["Adapter"]}).base == (
        "demo-work",
        f"team-a/{UID}/model",
    )


@pytest.mark.parametrize(
    ("wish", "step"),
    [(BEST, 60), (LAST, 90), (ModelCheckpoint(step=30), 30)],
)
@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_checkpoint_lies_among_the_files_of_its_job(
    wish: ModelCheckpoint, step: int, phase: str
) -> None:
    output = used(wish, phase=phase)
    assert (output.claim, output.path, output.step) == ("work", f"team-a/{UID}", step)
    assert output.lineage.jobs[0].step == step
    assert output.lineage.jobs[0].artifact is None
    assert output.told("first")["kind"] == "Checkpoint"


@pytest.mark.parametrize(
    ("wish", "spec", "patch", "says"),
    [
        (None, None, {"artifact": None}, "has published nothing"),
        (LAST, None, {"checkpoints": None}, "has saved no checkpoint"),
        (BEST, None, {"checkpoints": {"best": None}}, "has no best checkpoint"),
        (
            ModelCheckpoint(step=91),
            None,
            {},
            "no checkpoint of step 91: its last one is of step 90",
        ),
        (
            LAST,
            make_spec(checkpoint={"afterSuccess": "Delete"}),
            {"checkpoints": None},
            "has deleted its checkpoints",
        ),
    ],
)
def test_what_is_not_there_is_said(
    wish: ModelCheckpoint | None, spec: dict[str, Any] | None, patch: dict[str, Any], says: str
) -> None:
    output = found(wish, spec, **patch)
    assert isinstance(output, str) and says in output


def test_the_lineage_of_the_first_job_names_its_base() -> None:
    lineage = used().lineage
    assert lineage.wire() == {
        "jobs": [
            {
                "job": "demo",
                "uid": UID,
                "step": 90,
                "artifact": "sha256:result",
                "data": "sha256:rows",
            }
        ],
        "base": "pvc://models/small",
        "baseCommit": "abc",
        "baseDigest": "sha256:base",
        "summary": "demo@90 ← pvc://models/small@abc",
    }


def test_a_longer_chain_keeps_its_base_and_stays_bounded() -> None:
    known = used().lineage
    for _ in range(MAX_ANCESTORS + 3):
        known = used(None, make_spec(model={"uri": "job://x"}), lineage=known.wire()).lineage
    assert len(known.jobs) == MAX_ANCESTORS
    assert (known.base, known.base_digest) == ("pvc://models/small", "sha256:base")
    assert FineTuneJobStatus(lineage=known, start_time=NOW).wire()["lineage"]["summary"]
