"""job.yaml is a valid job, and a run changes only what it must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.api.types import FineTuneJob
from quickstart.facts import load_facts
from quickstart.manifests import JOB_YAML, MARK, SHORT_FACTS, Images, claim_and_job, namespace
from quickstart.options import DataKind, Foreign, Options

IMAGES = Images(
    operator="r:5000/finetune-operator:1",
    trainer="r:5000/finetune-trainer:2",
    model="r:5000/model:3",
    data="r:5000/data:4",
)


def job_of(options: Options) -> Any:
    return claim_and_job(options, IMAGES)[1]


def test_the_file_is_valid_as_it_stands() -> None:
    _, job = yaml.safe_load_all(JOB_YAML.read_text())
    FineTuneJob.model_validate(job)


def test_every_variant_is_a_valid_job() -> None:
    for options in (Options(), Options(short=True), Options(name="other", data=DataKind.CONTROL)):
        FineTuneJob.model_validate(job_of(options))


def test_it_trains_two_pods_with_zero_2_and_lora_and_publishes_both_forms() -> None:
    spec = FineTuneJob.model_validate(job_of(Options())).spec
    assert (spec.workers.count, spec.workers.world_size, spec.deepspeed.zero_stage) == (2, 2, 2)
    assert spec.method.lora is not None
    assert sorted(spec.output.formats) == ["Adapter", "Merged"]
    assert spec.evaluation.baseline == "Measure"


def test_images_are_those_that_were_pushed() -> None:
    spec = job_of(Options())["spec"]
    assert spec["model"]["uri"] == "image://r:5000/model:3"
    sources = [*spec["data"]["train"], *spec["data"]["eval"]]
    assert [(source["uri"], source["file"]) for source in sources] == [
        ("image://r:5000/data:4", "train.jsonl"),
        ("image://r:5000/data:4", "eval.jsonl"),
    ]


def test_the_claim_is_shared_and_the_job_refers_to_it() -> None:
    claim, job = claim_and_job(Options(name="other"), IMAGES)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["metadata"]["name"] == job["spec"]["storage"]["claimRef"]["name"]
    assert "storageClassName" not in claim["spec"]


def test_a_foreign_cluster_s_storage_class_goes_to_the_claim() -> None:
    foreign = Foreign(context="c", registry="r", plain_http=False, storage_class="nfs")
    claim, _ = claim_and_job(Options(foreign=foreign), IMAGES)
    assert claim["spec"]["storageClassName"] == "nfs"


def test_the_mark_tells_different_jobs_apart_and_equal_ones_together() -> None:
    def mark(options: Options) -> str:
        return str(job_of(options)["metadata"]["annotations"][MARK])

    assert mark(Options()) == mark(Options(reuse=True, plain=True))
    assert mark(Options()) != mark(Options(short=True))


def test_the_namespace_enforces_the_restricted_profile() -> None:
    labels = namespace()["metadata"]["labels"]
    assert labels == {"pod-security.kubernetes.io/enforce": "restricted"}


def test_the_short_job_asks_enough_questions_to_mean_something() -> None:
    assert 12 <= SHORT_FACTS < len(load_facts().facts)


EXAMPLES = sorted(JOB_YAML.parents[1].glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_manifest_to_copy_is_a_valid_job(path: Path) -> None:
    for manifest in yaml.safe_load_all(path.read_text()):
        FineTuneJob.model_validate(manifest)


def test_the_readme_lists_every_manifest_to_copy() -> None:
    readme = (JOB_YAML.parents[1] / "README.md").read_text()
    assert len(EXAMPLES) >= 4
    assert [path.name for path in EXAMPLES if f"]({path.name})" not in readme] == []
