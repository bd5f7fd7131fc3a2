"""Wishes that cannot work, through API server, operator and trainer image, all at the same time.

What cannot heal ends the job, Stalled, with a sentence that names the field or the file and line.
What can heal waits and says for what. No gang is started for either.
"""

from __future__ import annotations

import http.client
import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from e2e.jobs import Jobs, conditions
from e2e.kubectl import Kubectl, wait_for
from e2e.place import chat_row, claim, host_folder, own_operator, small_disk
from tiny_models import save_tiny_model

from local_cluster import LocalCluster
from local_cluster.oci import upload_image
from local_cluster.registry import repository_and_tag

if TYPE_CHECKING:
    from e2e.fixtures import Images

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SOME_ROWS = 20
MANY_ROWS = 3000
LATER = "2300k"
"""Model and rows fit, what is made of the rows does not."""
NEW = uuid.uuid4().hex[:8]
"""Nodes keep what they pulled once: what they shall miss needs a tag that never was."""
LATE_MODEL = f"localhost:5000/finetune-tests/late-model:{NEW}"


@dataclass(frozen=True)
class Wrong:
    """What is wrong, and how the job must end."""

    reason: str
    message: str
    spec: dict[str, Any] = field(default_factory=dict)
    prepares: bool = True
    """Only the prepare pod can find out."""


def data(uri: str) -> dict[str, Any]:
    return {"train": [{"name": "rows", "uri": uri}], "sequenceLength": 64}


GOOD = data("pvc://work/rows.jsonl")
FULL = "no space is left on the claim of spec.storage: "

WRONG = {
    "missing-file": Wrong(
        "BadData",
        "spec.data.train[0].uri: nothing at nowhere.jsonl",
        {"data": data("pvc://work/nowhere.jsonl")},
    ),
    "empty-file": Wrong(
        "BadData",
        "spec.data.train[0].uri: empty.jsonl is empty",
        {"data": data("pvc://work/empty.jsonl")},
    ),
    "bad-json": Wrong(
        "BadData",
        "spec.data.train[0]: broken.jsonl line 3: not valid JSON",
        {"data": data("pvc://work/broken.jsonl")},
    ),
    "no-targets": Wrong(
        "BadData",
        "spec.data.train[0]: no row is left to train on (noTargets: ",
        {"data": data("pvc://work/questions.jsonl")},
    ),
    "no-column": Wrong(
        "BadData",
        "spec.data.report.columns[0]: no training row has a column 'lable'",
        {"data": {**GOOD, "report": {"columns": ["lable"]}}},
    ),
    "no-template": Wrong(
        "BadData",
        "spec.model.chatTemplate: the model has no chat template",
        {"data": GOOD, "model": {"uri": "pvc://work/base-model"}},
    ),
    "unknown-model": Wrong(
        "ModelLoad",
        "spec.model.uri: config.json cannot be used: The checkpoint you are trying to load has "
        "model type `mystery`",
        {"data": GOOD, "model": {"uri": "pvc://work/strange-model"}},
    ),
    "full-at-once": Wrong("DiskFull", FULL, {"storage": {"claimRef": {"name": "disk-64k"}}}),
    "full-later": Wrong(
        "DiskFull",
        FULL,
        {
            "data": data("pvc://work/many.jsonl"),
            "storage": {"claimRef": {"name": f"disk-{LATER}"}},
        },
    ),
    "one-node-claim": Wrong(
        "ClaimNotShared",
        "spec.storage.claimRef.name: PersistentVolumeClaim own is ReadWriteOnce and 2 workers",
        {"storage": {"claimRef": {"name": "own"}}},
        prepares=False,
    ),
}

NO_CLAIM = "spec.storage.claimRef.name: PersistentVolumeClaim late does not exist in namespace"
NO_MODEL = f"1 of 1 pods cannot pull image {LATE_MODEL}: failed to pull"
NO_TRAINER = "1 of 1 pods cannot pull image {trainer}: failed to pull"

LATE = {
    "late-model": ("ImagePull", "False", NO_MODEL),
    "late-trainer": ("ImagePull", "False", NO_TRAINER),
    "late-claim": ("ClaimNotFound", "True", NO_CLAIM),
}
"""Reason, Stalled, and the sentence about what is missing."""


@pytest.fixture(scope="module")
def place(
    cluster: LocalCluster, kubectl: Kubectl, images: Images, shared_operator_asleep: None
) -> Iterator[str]:
    with ExitStack() as stack:
        namespace = stack.enter_context(
            own_operator(kubectl, "wrong", "wrong-inputs", images.operator, images.trainer)
        )
        write_sources(host_folder(cluster, kubectl, namespace, "work"))
        for size in ("64k", LATER):
            stack.enter_context(small_disk(cluster, kubectl, namespace, size))
        kubectl.apply(claim("own", "ReadWriteOnce"), namespace=namespace)
        yield namespace


def write_sources(folder: Path) -> None:
    save_tiny_model(folder / "model")
    save_tiny_model(folder / "base-model", template=None)
    strange = shutil.copytree(folder / "model", folder / "strange-model") / "config.json"
    strange.write_text(json.dumps(json.loads(strange.read_text()) | {"model_type": "mystery"}))
    answer = "A gang is a set of pods. " * 4
    rows = [chat_row(f"What is {n}?", answer) for n in range(MANY_ROWS)]
    files = {
        "rows": rows[:SOME_ROWS],
        "many": rows,
        "broken": [*rows[:2], rows[2][:-5], *rows[3:5]],
        "questions": [chat_row(f"What is gang {n}?", None) for n in range(3)],
        "empty": [],
    }
    for name, lines in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def late_trainer(
    cluster: LocalCluster, kubectl: Kubectl, images: Images, place: str
) -> Iterator[str]:
    """A trainer image that is not in the registry, and a namespace whose operator wants it."""
    reference = f"{images.trainer.rpartition(':')[0]}:late-{NEW}"
    with own_operator(kubectl, "late", "late-trainer", images.operator, reference) as namespace:
        write_sources(host_folder(cluster, kubectl, namespace, "work"))
        yield reference
    forget(cluster, reference)


@dataclass(frozen=True)
class Applied:
    """Every job of this module: the pods of all of them run side by side."""

    jobs: dict[str, Jobs]
    """Where each is, by name."""
    waiting: dict[str, dict[str, Any]]
    """The status of those that can heal, when the cause was still there."""


@pytest.fixture(scope="module")
def applied(
    cluster: LocalCluster, kubectl: Kubectl, images: Images, place: str, late_trainer: str
) -> Iterator[Applied]:
    here, there = Jobs(kubectl, place), Jobs(kubectl, "late-trainer")
    here.apply("late-model", data=GOOD, model={"uri": f"image://{LATE_MODEL}//model"})
    there.apply("late-trainer", data=GOOD)
    here.apply("late-claim", data=GOOD, storage={"claimRef": {"name": "late"}})
    for name, wrong in WRONG.items():
        here.apply(name, **({"data": GOOD} | wrong.spec))
    jobs = {**dict.fromkeys([*WRONG, "late-claim", "late-model"], here), "late-trainer": there}
    waiting = {}
    for name, (reason, _, _) in LATE.items():
        wait_for(f"{name}: {reason}", lambda n=name, r=reason: jobs[n].reason(n) == r)
        waiting[name] = jobs[name].status(name)
    # At once for all: the longer a pull fails, the longer the kubelet waits before the next.
    assert not here.children("late-claim"), "nothing is created for a claim that is not there"
    model = host_folder(cluster, kubectl, place, "work") / "model"
    content = {f"model/{file.name}": file.read_bytes() for file in model.iterdir()}
    upload_image(cluster.registry, LATE_MODEL, content)
    also_tag(cluster, images.trainer, late_trainer)
    kubectl.apply(claim("late"), namespace=place)
    yield Applied(jobs, waiting)
    forget(cluster, LATE_MODEL)


@pytest.mark.faults
@pytest.mark.parametrize("name", LATE)
def test_what_can_heal_waits_with_a_sentence_and_goes_on(
    applied: Applied, late_trainer: str, name: str
) -> None:
    jobs, status = applied.jobs[name], applied.waiting[name]
    _, stalled, sentence = LATE[name]
    assert status["phase"] == "Pending"
    assert status["pendingReason"].startswith(sentence.format(trainer=late_trainer))
    assert "\n" not in status["pendingReason"]
    told = conditions(status)
    assert (told["Stalled"]["status"], told["Succeeded"]["status"]) == (stalled, "Unknown")

    wait_for("the data are prepared", lambda: jobs.status(name).get("prepared"))
    healed = conditions(jobs.status(name))
    assert (healed["DatasetValid"]["status"], healed["Stalled"]["status"]) == ("True", "False")
    assert jobs.status(name)["prepareAttempt"] == 0, "the same pod, or the first"
    jobs.delete(name)


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_heal_ends_the_job_before_any_gang(
    applied: Applied, kubectl: Kubectl, name: str
) -> None:
    wrong, jobs = WRONG[name], applied.jobs[name]
    status = jobs.wait_phase(name, "Failed", "Training", "Succeeded")
    told = conditions(status)
    assert status["phase"] == "Failed", told
    for condition in ("Failed", "Stalled"):
        assert (told[condition]["status"], told[condition]["reason"]) == ("True", wrong.reason)
        assert wrong.message in told[condition]["message"]
    assert (told["Reconciling"]["status"], told["Succeeded"]["status"]) == ("False", "False")
    judged = "False" if wrong.reason in ("BadData", "ModelLoad") else "Unknown"
    assert (told["DatasetValid"]["status"], told["GangReady"]["status"]) == (judged, "False")
    assert status["failure"]["message"].startswith(wrong.message)
    assert "attempt" not in status and "pendingReason" not in status
    labels = f"finetune.dev/job={name}"
    found = kubectl.json("get", "jobs,pods", "-l", labels, namespace=jobs.namespace)["items"]
    stages = [item["metadata"]["labels"]["finetune.dev/stage"] for item in found]
    assert stages == (["prepare", "prepare"] if wrong.prepares else [])
    if wrong.prepares:
        assert status["failure"]["stage"] == "prepare" and status["failure"]["node"]


def also_tag(cluster: LocalCluster, image: str, reference: str) -> None:
    """Give an image of the registry another tag in its repository."""
    repository, tag = repository_and_tag(image)
    manifest = "application/vnd.oci.image.manifest.v1+json"
    connection = http.client.HTTPConnection(cluster.registry, timeout=30)
    connection.request("GET", f"/v2/{repository}/manifests/{tag}", headers={"Accept": manifest})
    content = connection.getresponse().read()
    target = f"/v2/{repository}/manifests/{repository_and_tag(reference)[1]}"
    connection.request("PUT", target, content, {"Content-Type": manifest})
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    connection.close()


def forget(cluster: LocalCluster, reference: str) -> None:
    """Take a tag from the registry's storage, which outlives the cluster."""
    repository, tag = repository_and_tag(reference)
    kept = cluster.cache.registry / "docker/registry/v2/repositories" / repository
    shutil.rmtree(kept / "_manifests/tags" / tag, ignore_errors=True)
