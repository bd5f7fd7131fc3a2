"""What an earlier start left decides whether a job goes on, is shown again, or makes way."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest
from rich.console import Console

from quickstart.display import Display
from quickstart.journey import Journey
from quickstart.kube import Kube
from quickstart.manifests import MARK, Images, claim_and_job
from quickstart.options import Options
from quickstart.stages import Reporter
from quickstart.targets import Target

IMAGES = Images(operator="o:1", trainer="t:1", model="m:1", data="d:1")
SUCCEEDED = {"conditions": [{"type": "Succeeded", "status": "True"}]}
FAILED = {"conditions": [{"type": "Failed", "status": "True"}]}
RUNNING = {"conditions": [{"type": "Reconciling", "status": "True"}]}


class Cluster:
    """A Kube that remembers objects; deleting is at once."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Any] = {}
        self.deleted: list[str] = []

    def get(self, version: str, kind: str, name: str, namespace: str | None = None) -> Any:
        return self.objects.get((kind, name))

    def apply(self, manifest: Any) -> Any:
        self.objects[manifest["kind"], manifest["metadata"]["name"]] = manifest
        return manifest

    def delete(self, version: str, kind: str, name: str, namespace: str) -> None:
        self.deleted.append(f"{kind}/{name}")
        self.objects.pop((kind, name), None)


def submit(options: Options, *, earlier: dict[str, Any] | None) -> tuple[str, Cluster]:
    """Submit to a cluster with an ``earlier`` status of a job of this name and content."""
    cluster = Cluster()
    if earlier is not None:
        claim, job = claim_and_job(Options(), IMAGES)
        cluster.apply(claim)
        cluster.apply(job | {"status": earlier})
    display = Display(Console(file=io.StringIO()), live=False)
    journey = Journey(options, cast(Target, None), display)
    journey.references, journey.kube = IMAGES, cast(Kube, cluster)
    return journey.submit(cast(Reporter, lambda *_: None)), cluster


def test_on_a_fresh_cluster_namespace_claim_and_job_are_applied() -> None:
    said, cluster = submit(Options(), earlier=None)
    assert said == "quickstart/facts"
    assert set(cluster.objects) == {
        ("Namespace", "quickstart"),
        ("PersistentVolumeClaim", "facts-workspace"),
        ("FineTuneJob", "facts"),
    }


def test_the_same_job_that_still_runs_goes_on() -> None:
    said, cluster = submit(Options(), earlier=RUNNING)
    assert said == "goes on with the job of an earlier start"
    assert cluster.deleted == []


@pytest.mark.parametrize("earlier", [SUCCEEDED, FAILED], ids=["succeeded", "failed"])
def test_a_finished_job_makes_way_with_its_claim(earlier: dict[str, Any]) -> None:
    said, cluster = submit(Options(), earlier=earlier)
    assert said == "quickstart/facts"
    assert cluster.deleted == ["FineTuneJob/facts", "PersistentVolumeClaim/facts-workspace"]
    assert "status" not in cluster.objects["FineTuneJob", "facts"]


def test_a_running_job_of_other_content_makes_way() -> None:
    said, cluster = submit(Options(short=True), earlier=RUNNING)
    assert said == "quickstart/facts"
    assert "FineTuneJob/facts" in cluster.deleted
    job = cluster.objects["FineTuneJob", "facts"]
    wanted = claim_and_job(Options(short=True), IMAGES)[1]
    assert job["metadata"]["annotations"][MARK] == wanted["metadata"]["annotations"][MARK]


def test_on_request_a_succeeded_job_is_shown_again() -> None:
    said, cluster = submit(Options(reuse=True), earlier=SUCCEEDED)
    assert said == "shows the finished job of an earlier run"
    assert cluster.deleted == []


def test_a_failed_job_is_never_shown_as_a_result() -> None:
    _, cluster = submit(Options(reuse=True), earlier=FAILED)
    assert "FineTuneJob/facts" in cluster.deleted
