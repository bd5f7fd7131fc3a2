"""The real API server accepts right FineTuneJobs and refuses wrong ones, with field and reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from api_cases import (
    CHANGES_REFUSED,
    ROOT,
    SAMPLES,
    WrongObject,
    edited,
    full_status,
    sample,
    wrong_objects,
)
from kubernetes import client, config

pytestmark = [pytest.mark.e2e, pytest.mark.statuses_by_hand]

JSON = "application/json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
MERGE_PATCH = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Answer:
    """What the API server said to one request."""

    code: int
    body: dict[str, Any]
    warnings: str

    @property
    def causes(self) -> list[tuple[str, str]]:
        """Field and sentence of each fault."""
        causes = self.body.get("details", {}).get("causes", [])
        return [(cause.get("field", ""), cause["message"]) for cause in causes]


class FineTuneJobs:
    """Plain HTTP to the FineTuneJobs of a namespace: no client-side checks, headers visible."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.settings = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=self.settings)
        self.client = client.ApiClient(self.settings)
        self.http = self.client.rest_client.pool_manager
        self.namespace = namespace

    def send(
        self,
        method: str,
        body: Any,
        name: str = "",
        kind: str = JSON,
        accept: str = JSON,
        **query: str,
    ) -> Answer:
        path = f"/apis/finetune.dev/v1alpha1/namespaces/{self.namespace}/finetunejobs/{name}"
        headers = {"Content-Type": kind, "Accept": accept}
        self.client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = f"{self.settings.host}{path.rstrip('/')}?{urlencode(query)}"
        answer = self.http.request(method, url, body=json.dumps(body), headers=headers)
        return Answer(answer.status, json.loads(answer.data), answer.headers.get("Warning", ""))

    def try_to_create(self, manifest: dict[str, Any]) -> Answer:
        return self.send("POST", manifest, dryRun="All", fieldValidation="Strict")

    def try_to_change(self, name: str, patch: dict[str, Any]) -> Answer:
        return self.send("PATCH", patch, name, MERGE_PATCH, dryRun="All", fieldValidation="Strict")

    def try_to_write_status(self, name: str, status: dict[str, Any], accept: str = JSON) -> Answer:
        manifest = {**edited(sample(name), {"spec.suspend": True}), "status": status}
        for _ in range(5):  # the operator may write its own status in between
            meta = self.send("PATCH", {}, name, MERGE_PATCH).body["metadata"]
            manifest["metadata"] = {"name": name, "resourceVersion": meta["resourceVersion"]}
            answer = self.send("PUT", manifest, f"{name}/status", JSON, accept, dryRun="All")
            if answer.code != 409:
                break
        return answer


@pytest.fixture
def jobs(kubectl: Any, operator: str, namespace: str) -> FineTuneJobs:
    return FineTuneJobs(kubectl.kubeconfig, namespace)


@pytest.fixture
def stored(jobs: FineTuneJobs) -> Iterator[str]:
    """The full sample, stored and suspended, so that nobody works on it."""
    manifest = edited(sample("full"), {"spec.suspend": True})
    assert jobs.send("POST", manifest).code == 201
    yield "full"
    jobs.send("DELETE", {}, "full")


def test_the_crd_is_structural_and_established(kubectl: Any, operator: str) -> None:
    crd = kubectl.json("get", "crd", "finetunejobs.finetune.dev")
    states = {state["type"]: state["status"] for state in crd["status"]["conditions"]}

    assert states["Established"] == "True"
    assert states["NamesAccepted"] == "True"
    assert "NonStructuralSchema" not in states


def test_client_side_apply_can_hold_the_whole_crd(kubectl: Any) -> None:
    [path] = (ROOT / "crds").glob("*.yaml")
    kubectl("apply", "--dry-run=server", "-f", str(path))


@pytest.mark.parametrize("name", SAMPLES)
def test_the_sample_is_accepted(jobs: FineTuneJobs, name: str) -> None:
    answer = jobs.try_to_create(sample(name))

    assert (answer.code, answer.warnings) == (201, "")


def test_every_wrong_object_is_refused_with_field_and_reason(jobs: FineTuneJobs) -> None:
    """One test for the table: a namespace for each of its rows would cost minutes."""
    surprises = [
        f"{wrong.name}: {answer.code} {answer.causes or answer.body.get('message')}"
        for wrong in wrong_objects()
        if not _is_refused_as_expected(answer := jobs.try_to_create(wrong.manifest), wrong)
    ]

    assert not surprises, "\n".join(surprises)


def _is_refused_as_expected(answer: Answer, wrong: WrongObject) -> bool:
    faults = [
        (field, message)
        for field, message in answer.causes
        if "some validation rules were not checked" not in message
    ]
    if answer.code != 422 or len(faults) != 1:
        return False
    [(field, message)] = faults
    return field.startswith(wrong.field) and wrong.says in message


def test_a_running_experiment_never_changes(jobs: FineTuneJobs, stored: str) -> None:
    surprises = []
    for name, (field, change) in CHANGES_REFUSED.items():
        answer = jobs.try_to_change(stored, {"spec": {field: change}})
        says = [message for place, message in answer.causes if place == f"spec.{field}"]
        if answer.code != 422 or not any("cannot change after creation" in line for line in says):
            surprises.append(f"{name}: {answer.code} {answer.causes}")

    assert not surprises, "\n".join(surprises)


@pytest.mark.parametrize("field", ["deepspeed", "prepare", "evaluation", "checkpoint", "output"])
def test_an_optional_part_cannot_be_removed_whole(
    jobs: FineTuneJobs, stored: str, field: str
) -> None:
    answer = jobs.try_to_change(stored, {"spec": {field: None}})

    assert answer.code == 422
    assert f"spec.{field}" in [place for place, _ in answer.causes]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"suspend": False}, id="resume"),
        pytest.param({"activeDeadlineSeconds": 600}, id="another deadline"),
        pytest.param({"activeDeadlineSeconds": None}, id="no deadline"),
        pytest.param({"ttlSecondsAfterFinished": 0}, id="another time to live"),
        pytest.param({"startDeadlineSeconds": 60}, id="another start deadline"),
        pytest.param({"recovery": {"maxRestarts": 9}}, id="another budget"),
        pytest.param({"budget": {"gpuHours": "0.5"}}, id="fewer GPU-hours"),
        pytest.param({"budget": None}, id="as many GPU-hours as it needs"),
        pytest.param({"queue": {"name": "silver"}}, id="another queue"),
        pytest.param({"queue": None}, id="no queue any more"),
        pytest.param({"recovery": None}, id="the default budgets again"),
        pytest.param({"recovery": {"elastic": {"min": 1}}}, id="fewer workers may do"),
        pytest.param({"recovery": {"elastic": None}}, id="no other number of workers may do"),
        pytest.param({"workers": {"count": 2}}, id="fewer workers while suspended"),
    ],
)
def test_what_steers_the_job_may_change(
    jobs: FineTuneJobs, stored: str, change: dict[str, Any]
) -> None:
    assert jobs.try_to_change(stored, {"spec": change}).code == 200


def test_the_gang_keeps_its_size_unless_suspended(jobs: FineTuneJobs) -> None:
    jobs.send("POST", sample("full"))
    answer = jobs.try_to_change("full", {"spec": {"suspend": True, "workers": {"count": 8}}})
    jobs.send("DELETE", {}, "full")

    assert answer.code == 422
    assert "only workers.count may change, while the job is suspended" in answer.causes[0][1]


def test_a_gang_is_resized_by_hand_only_within_its_elastic_bounds(
    jobs: FineTuneJobs, stored: str
) -> None:
    answer = jobs.try_to_change(stored, {"spec": {"workers": {"count": 1}}})

    assert answer.code == 422
    assert answer.causes[0][0] == "spec.recovery.elastic.min"


def test_a_fresh_job_is_not_current(jobs: FineTuneJobs) -> None:
    """kstatus takes an object without observedGeneration for finished."""
    created = jobs.try_to_create(sample("minimal")).body

    assert created["status"] == {"observedGeneration": -1}
    assert created["metadata"]["generation"] == 1


def test_defaults_are_written_into_the_spec(jobs: FineTuneJobs) -> None:
    spec = jobs.try_to_create(sample("minimal")).body["spec"]

    plain = {"rslora": "Disabled", "dora": "Disabled"}
    assert spec["method"]["lora"] == {"rank": 16, "alpha": 32, "dropout": "0.0", **plain}
    assert spec["training"]["optimizer"]["epsilon"] == "1e-8"
    assert spec["startDeadlineSeconds"] == 1800
    assert spec["recovery"]["backoffSeconds"] == {"initial": 5, "max": 300}


def test_a_status_is_stored_as_it_was_written(jobs: FineTuneJobs, stored: str) -> None:
    """A pruned field would look like a change, and the operator would write it for ever."""
    answer = jobs.try_to_write_status(stored, full_status())

    assert (answer.code, answer.warnings) == (200, "")
    assert answer.body["status"] == full_status()


def test_kubectl_get_answers_where_how_far_and_how_good(jobs: FineTuneJobs, stored: str) -> None:
    table = jobs.try_to_write_status(stored, full_status(), accept=TABLE).body
    cells = dict(
        zip(
            (column["name"] for column in table["columnDefinitions"]),
            table["rows"][0]["cells"],
            strict=True,
        )
    )

    shown = ("Name", "Phase", "Progress", "Loss", "Eval Loss", "Base Loss")
    assert {name: cells[name] for name in shown} == {
        "Name": "full",
        "Phase": "Training",
        "Progress": "44% (40/90)",
        "Loss": "1.213",
        "Eval Loss": "1.341",
        "Base Loss": "2.2",
    }
    assert (cells["ETA"], cells["Attempt"], cells["Reason"]) == ("13m32s", 1, "Training")
    assert cells["Pending"] == "1 of 2 pods waits for a node with 8 GPUs"
    wide = [column["name"] for column in table["columnDefinitions"] if column["priority"]]
    assert wide == [
        *("Model", "Lineage", "Workers", "Attempt", "Restarts", "Tokens/s", "Reason", "Pending")
    ]


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("how", [(), ("--server-side",)], ids=["client side", "server side"])
def test_a_second_apply_changes_nothing(
    kubectl: Any, operator: str, namespace: str, name: str, how: tuple[str, ...]
) -> None:
    manifest = json.dumps(edited(sample(name), {"spec.suspend": True}))
    kubectl("apply", *how, "-f", "-", namespace=namespace, stdin=manifest)
    said = kubectl("apply", *how, "-f", "-", namespace=namespace, stdin=manifest)
    generation = kubectl.json("get", "ftj", sample(name)["metadata"]["name"], namespace=namespace)

    assert generation["metadata"]["generation"] == 1
    assert how or "unchanged" in said or name == "minimal"  # kubectl calls `lora: {}` a change


class TestUnknownFields:
    """Who learns of a typo: operator/decisions/20261123-unknown-fields.md."""

    TYPO = "spec.training.learningrate"

    def manifest(self) -> dict[str, Any]:
        return edited(sample("minimal"), {self.TYPO: "1e-4"})

    @pytest.mark.parametrize("how", [(), ("--server-side",)], ids=["client side", "server side"])
    def test_kubectl_refuses_them_with_their_path(
        self, kubectl: Any, operator: str, namespace: str, how: tuple[str, ...]
    ) -> None:
        done = kubectl.run(
            "apply", *how, "-f", "-", namespace=namespace, stdin=json.dumps(self.manifest())
        )

        assert done.returncode != 0
        assert "learningrate" in done.stderr
        assert ".spec.training.learningrate" in done.stderr or f'"{self.TYPO}"' in done.stderr

    def test_a_plain_post_drops_them_with_a_warning(self, jobs: FineTuneJobs) -> None:
        answer = jobs.send("POST", self.manifest(), dryRun="All")

        assert answer.code == 201
        assert "learningrate" not in answer.body["spec"]["training"]
        assert f'unknown field "{self.TYPO}"' in answer.warnings.replace("\\", "")

    def test_a_strict_post_is_refused_with_their_path(self, jobs: FineTuneJobs) -> None:
        answer = jobs.send("POST", self.manifest(), dryRun="All", fieldValidation="Strict")

        assert answer.code == 400
        assert f'unknown field "{self.TYPO}"' in answer.body["message"]

    def test_a_plain_server_side_apply_is_refused(self, jobs: FineTuneJobs) -> None:
        answer = jobs.send(
            "PATCH", self.manifest(), "minimal", APPLY, dryRun="All", fieldManager="me"
        )

        assert answer.code == 500  # the API server's own choice of code
        assert "learningrate: field not declared in schema" in answer.body["message"]
