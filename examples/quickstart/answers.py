"""Asks base and tuned model the held-out questions, where the models lie: in the cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from quickstart.dataset import EVAL_FILE, Question, eval_rows, jsonl, questions
from quickstart.errors import QuickstartError
from quickstart.facts import FactBook
from quickstart.kube import Kube, Object
from quickstart.manifests import API_VERSION, KIND
from quickstart.options import NAMESPACE
from quickstart.stages import Reporter

MAX_NEW_TOKENS = 32
"""The longest trained answer has about 20."""
TIMEOUT = 900.0

MODELS = {"base": "/workspace/model", "tuned": "/workspace/output/merged"}
CURVE = "curve"


@dataclass(frozen=True)
class CurvePoint:
    """One step, or one evaluation, of the training."""

    step: int
    loss: float | None = None
    held_out: float | None = None


@dataclass(frozen=True)
class Answers:
    """In the order of the questions."""

    base: list[str]
    tuned: list[str]
    curve: list[CurvePoint]


def ask(kube: Kube, job: Object, image: str, book: FactBook, report: Reporter) -> Answers:
    """Run the trainer image's ``answer`` stage over the claim of a finished job."""
    name = f"{job['metadata']['name']}-answers"
    kube.delete("batch/v1", "Job", name, NAMESPACE)
    _wait_gone(kube, name)
    kube.apply(_questions(name, job, book))
    kube.create(answer_job(name, job, image))
    pod = _wait_done(kube, name, report)
    asked = questions(book)
    answers = {
        model: parse_answers(kube.logs(NAMESPACE, pod, model), model, asked) for model in MODELS
    }
    curve = parse_curve(kube.logs(NAMESPACE, pod, CURVE))
    return Answers(base=answers["base"], tuned=answers["tuned"], curve=curve)


def parse_answers(text: str, model: str, asked: Sequence[Question]) -> list[str]:
    """One JSON object a line with ``id`` (place of the question) and ``answer``.

    Libraries may print lines in between. Raises QuickstartError where answers are missing.
    """
    found: dict[int, str] = {}
    for row in _objects(text):
        if "id" in row and "answer" in row:
            found[row["id"]] = row["answer"]
    missing = [question.prompt for place, question in enumerate(asked) if place not in found]
    if missing:
        last = "\n".join(text.splitlines()[-8:])
        raise QuickstartError(
            f"The {model} model left {len(missing)} of {len(asked)} questions unanswered, "
            f"the first: {missing[0]!r}. Its pod's last words:\n{last}"
        )
    return [found[place] for place in range(len(asked))]


def parse_curve(text: str) -> list[CurvePoint]:
    """``metrics.jsonl``: one object for each step or evaluation; other lines are skipped."""
    return [
        CurvePoint(row["step"], row.get("loss"), row.get("evalLoss"))
        for row in _objects(text)
        if isinstance(row.get("step"), int)
    ]


def _objects(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            yield row


def _questions(name: str, job: Object, book: FactBook) -> Object:
    """The held-out rows themselves: the stage takes their last turn as the reference."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": NAMESPACE, "ownerReferences": [_owner(job)]},
        "data": {EVAL_FILE: jsonl(eval_rows(book))},
    }


def answer_job(name: str, job: Object, image: str) -> Object:
    # The job's own folder of the claim; no other job's files are seen.
    folder = f"{NAMESPACE}/{job['metadata']['uid']}"
    attempt = job["status"].get("attempt", 0)
    containers = [
        _container(
            model, image, folder,
            args=["answer", "--model", path, "--prompts", f"/questions/{EVAL_FILE}",
                  "--max-new-tokens", str(MAX_NEW_TOKENS)],
        )
        for model, path in MODELS.items()
    ]  # fmt: skip
    metrics = f"/workspace/attempts/{attempt}/metrics.jsonl"
    containers.append(_container(CURVE, image, folder, command=["cat", metrics]))
    claim = job["spec"]["storage"]["claimRef"]["name"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": NAMESPACE, "ownerReferences": [_owner(job)]},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": int(TIMEOUT),
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 1000,
                        "runAsGroup": 1000,
                        "fsGroup": 1000,
                        "fsGroupChangePolicy": "OnRootMismatch",
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": containers,
                    "volumes": [
                        {"name": "workspace", "persistentVolumeClaim": {"claimName": claim}},
                        {"name": "questions", "configMap": {"name": name}},
                        {"name": "tmp", "emptyDir": {}},
                    ],
                }
            },
        },
    }


def _container(name: str, image: str, folder: str, **run: list[str]) -> Object:
    return {
        "name": name,
        "image": image,
        **run,
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108
            # Both models answer side by side.
            {"name": "OMP_NUM_THREADS", "value": "1"},
        ],
        "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "4Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "workspace", "mountPath": "/workspace", "subPath": folder, "readOnly": True},
            {"name": "questions", "mountPath": "/questions", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ],
    }


def _owner(job: Object) -> Object:
    """Deleted with the FineTuneJob."""
    meta = job["metadata"]
    return {"apiVersion": API_VERSION, "kind": KIND, "name": meta["name"], "uid": meta["uid"]}


def _wait_gone(kube: Kube, name: str) -> None:
    deadline = time.monotonic() + 120
    while kube.get("batch/v1", "Job", name, NAMESPACE) is not None:
        if time.monotonic() > deadline:
            raise QuickstartError(f"The Job {name} of an earlier run does not go away.")
        time.sleep(0.5)


def _wait_done(kube: Kube, name: str, report: Reporter) -> str:
    """The name of the pod that answered."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        pods = kube.list("v1", "Pod", NAMESPACE, f"batch.kubernetes.io/job-name={name}")
        pod: dict[str, Any] = pods[0] if pods else {}
        phase = pod.get("status", {}).get("phase", "Pending")
        if phase == "Succeeded":
            return str(pod["metadata"]["name"])
        if phase == "Failed":
            raise QuickstartError(f"Asking the models failed: {_last_words(kube, pod)}")
        if time.monotonic() > deadline:
            raise QuickstartError(
                f"The models have not answered within {TIMEOUT:.0f} s: see `kubectl describe "
                f"job {name} --namespace {NAMESPACE}`."
            )
        report({"Running": "base and tuned model answer"}.get(phase, "waiting for the pod"))
        time.sleep(1.0)


def _last_words(kube: Kube, pod: Object) -> str:
    for state in pod["status"].get("containerStatuses", ()):
        ended = state.get("state", {}).get("terminated")
        if ended and ended["exitCode"] != 0:
            log = kube.logs(NAMESPACE, pod["metadata"]["name"], state["name"])
            last = "\n".join(log.splitlines()[-8:])
            return f"{state['name']} ended with code {ended['exitCode']}:\n{last}"
    return str(pod["status"].get("message", pod["status"].get("reason", "no reason given")))
