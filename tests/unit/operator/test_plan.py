"""spec → plan: names, places, defaults with reasons, and faults with field paths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import KEY, PLATFORM, UID, make_plan, make_spec

from finetune_operator.api.types import FineTuneJobStatus, Resolved, StageName
from finetune_operator.errors import InvalidSpec
from finetune_operator.plan import Platform, stage_job_name
from finetune_operator.settings import Settings
from finetune_operator.sources import ResolvedOutput, named_job
from finetune_trainer.config import Checkpoint as RunConfigCheckpoint


def test_the_names_of_all_attempts_are_known_beforehand() -> None:
    plan = make_plan()
    assert plan.job_name(StageName.PREPARE, 0) == "demo-p0"
    assert plan.job_name(StageName.TRAIN, 3) == "demo-a3"
    assert plan.job_name(StageName.EXPORT, 1) == "demo-x1"
    assert stage_job_name(KEY, StageName.TRAIN, 3) == "demo-a3"
    assert (plan.service_name, plan.config_map_name) == ("demo", "demo-run")


def test_each_attempt_has_another_master_port_below_the_ephemeral_ones() -> None:
    plan = make_plan()
    ports = [plan.master_port(attempt) for attempt in range(100)]
    assert len(set(ports)) == 100
    assert all(23_000 <= port < 31_000 for port in ports)


@pytest.mark.parametrize(
    ("patch", "field", "value"),
    [
        pytest.param({"method": {"lora": {}}}, "learning_rate", "0.0002", id="LoRA's usual rate"),
        pytest.param(
            {"method": {"lora": None, "full": {}}}, "learning_rate", "2e-05", id="full's usual rate"
        ),
        pytest.param({"training": {"learningRate": "1e-3"}}, "learning_rate", "0.001", id="given"),
        pytest.param({}, "zero_stage", 2, id="several ranks partition"),
        pytest.param({"workers": {"count": 1}}, "zero_stage", 0, id="a single rank does not"),
        pytest.param({"deepspeed": {"zeroStage": 3}}, "zero_stage", 3, id="given stage"),
        pytest.param({}, "precision", "Auto", id="the trainer asks its device"),
        pytest.param({"training": {"precision": "BF16"}}, "precision", "BF16", id="given format"),
    ],
)
def test_what_is_absent_is_resolved(patch: dict[str, Any], field: str, value: object) -> None:
    resolved = make_plan(make_spec(**patch)).resolved
    assert getattr(resolved, field) == value
    given = "given" in str(patch) or any(name in str(patch) for name in ("zeroStage", "precision"))
    words = {"learning_rate": "learningRate", "zero_stage": "zeroStage"}
    if not given and "learningRate" not in str(patch):
        assert words.get(field, field) in (resolved.reasons or {}), "the choice needs a reason"


def test_a_job_that_names_no_interval_saves_by_the_clock_and_is_told_so() -> None:
    resolved = make_plan().resolved
    assert resolved.checkpoint_seconds == RunConfigCheckpoint().seconds == 1800
    assert "half an hour" in (resolved.reasons or {})["checkpointSeconds"]
    named = make_plan(make_spec(checkpoint={"everySteps": 5})).resolved
    assert named.checkpoint_seconds is None
    assert "checkpointSeconds" not in (named.reasons or {})


@pytest.mark.parametrize(
    ("precision", "told"), [("BF16", True), ("FP16", True), ("FP32", False), (None, False)]
)
def test_a_stage_that_runs_as_another_one_says_so(precision: str | None, told: bool) -> None:
    spec = make_spec(deepspeed={"zeroStage": 0}, training={"precision": precision})
    resolved = make_plan(spec).resolved
    assert resolved.zero_stage == 0
    assert ("runs as stage 1" in (resolved.reasons or {}).get("zeroStage", "")) is told


def test_a_job_keeps_the_image_of_its_first_pod_when_the_platform_moves_on() -> None:
    status = FineTuneJobStatus(resolved=Resolved(image="example.test/trainer:old", steps=12))
    newer = Platform(Settings(trainer_image="example.test/trainer:new"))
    plan = make_plan(status=status, platform=newer)
    assert plan.image == plan.resolved.image == "example.test/trainer:old"
    assert plan.resolved.steps == 12


@pytest.mark.parametrize(
    ("uri", "place", "mount"),
    [
        pytest.param(
            "pvc://models/a/b.gguf",
            {"path": "/sources/model/a/b.gguf"},
            ("models", None),
            id="a claim is mounted whole, so a wrong path shows",
        ),
        pytest.param("pvc://models", {"path": "/sources/model"}, ("models", None), id="its root"),
        pytest.param(
            "image://example.test/m:1//small.gguf",
            {"path": "/sources/model/small.gguf"},
            None,
            id="a path in an image",
        ),
        pytest.param(
            "hf://org/small",
            {"hub": {"repository": "org/small", "revision": "main"}},
            None,
            id="a hub model",
        ),
        pytest.param(
            "job://base",
            {
                "path": "/sources/model",
                "job": {"name": "base", "kind": "Merged", "lineage": {}},
            },
            ("other", "a/b/merged"),
            id="another job",
        ),
    ],
)
def test_a_model_is_found_at(uri: str, place: dict[str, Any], mount: object) -> None:
    outputs = {"base": ResolvedOutput("other", "a/b/merged")}
    plan = make_plan(make_spec(model={"uri": uri}), outputs=outputs)
    assert plan.run_config["model"] == place
    source = plan.sources[0]
    assert ((source.claim, source.sub_path) if source.claim else None) == mount


def test_an_adapter_is_mounted_beside_its_base() -> None:
    output = ResolvedOutput("other", "a/adapter", base=("work", "b/model"))
    plan = make_plan(make_spec(model={"uri": "job://base"}), outputs={"base": output})
    mounts = {source.slot: (source.claim, source.sub_path, source.path) for source in plan.sources}
    assert mounts["model"] == ("other", "a/adapter", "/sources/model")
    assert mounts["model-base"] == ("work", "b/model", "/sources/model-base")
    assert plan.run_config["model"]["job"]["basePath"] == "/sources/model-base"


def test_a_dataset_revision_stands_behind_the_at_sign() -> None:
    rows = {"name": "rows", "uri": "hf://datasets/org/rows@v2", "config": "en", "split": "dev"}
    entry = make_plan(make_spec(data={"train": [rows]})).run_config["data"]["train"][0]
    assert entry["hub"] == {"repository": "org/rows", "revision": "v2"}
    assert (entry["config"], entry["split"]) == ("en", "dev")
    assert entry["field"] == "spec.data.train[0]"


def test_an_https_source_is_passed_on_and_never_mounted() -> None:
    rows = {"name": "rows", "uri": "https://example.test/rows.jsonl"}
    plan = make_plan(make_spec(data={"train": [rows]}))
    assert plan.run_config["data"]["train"][0]["url"] == "https://example.test/rows.jsonl"
    assert plan.sources[1].claim_use is None


def test_claims_are_named_with_the_field_that_wants_them() -> None:
    plan = make_plan(make_spec(output={"uri": "pvc://results/x"}))
    assert [(use.name, use.field, use.shared) for use in plan.claim_uses] == [
        ("models", "spec.model.uri", False),
        ("datasets", "spec.data.train[0].uri", False),
        ("work", "spec.storage.claimRef.name", True),
        ("results", "spec.output.uri", False),
    ]


def test_a_claim_of_a_size_is_the_jobs_own() -> None:
    spec = make_spec(storage={"claimRef": None, "size": "5Gi"}, output={"uri": "pvc://results/x"})
    plan = make_plan(spec)
    assert plan.claim_name == "demo-work"
    assert "demo-work" not in {use.name for use in plan.claim_uses}


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        pytest.param({}, "spec.model", id="an empty spec"),
        pytest.param(make_spec(model={"uri": "ftp://x"}), "spec.model.uri", id="a wrong scheme"),
        pytest.param(make_spec(workers={"count": -1}), "spec.workers.count", id="a wrong number"),
        pytest.param(
            make_spec(evaluation={"generation": {"metrics": ["Regex"], "regex": "(a"}}),
            "spec.evaluation.generation.regex",
            id="a regex that does not compile",
        ),
        pytest.param(make_spec(surprise=1), "spec.surprise", id="an unknown field"),
        pytest.param(
            make_spec(data={"train": [{"name": "a"}]}), "spec.data.train[0].uri", id="in a list"
        ),
    ],
)
def test_a_wrong_spec_is_refused_with_the_path_of_the_field(spec: Any, path: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        make_plan(spec)
    assert path in {fault.field for fault in caught.value.faults}


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidSpec) as caught:
        make_plan(make_spec(model={"uri": "ftp://x"}, workers={"count": 0}))
    assert len(caught.value.faults) >= 2


def test_image_volumes_need_a_kubernetes_that_has_them() -> None:
    spec = make_spec(model={"uri": "image://example.test/m:1"})
    make_plan(spec)
    with pytest.raises(InvalidSpec, match=r"spec\.model\.uri: image:// needs Kubernetes 1\.35"):
        make_plan(spec, platform=replace(PLATFORM, kubernetes_minor=34))


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({"model": {"uri": "job://base"}}, "base"),
        ({"model": {"uri": "hf://org/x"}}, None),
        ({"model": {"uri": 7}}, None),
        ({"model": "job://base"}, None),
        ({}, None),
    ],
)
def test_the_job_that_a_raw_spec_names(spec: dict[str, Any], name: str | None) -> None:
    assert named_job(spec) == name


def test_the_files_of_a_job_lie_below_its_namespace_and_uid() -> None:
    assert make_plan().workspace == f"team-a/{UID}"
    assert make_plan().output_path == f"team-a/{UID}/output"
