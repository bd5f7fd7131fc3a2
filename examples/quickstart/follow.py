"""Follows one FineTuneJob by its status, as any user with kubectl could."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from quickstart.display import seconds
from quickstart.errors import QuickstartError
from quickstart.kube import Kube
from quickstart.manifests import API_VERSION, KIND
from quickstart.options import NAMESPACE
from quickstart.stages import Reporter

Status = dict[str, Any]

INTERVAL = 1.0
"""Seconds between two reads of the job."""
SILENCE = 90.0
"""Seconds without an answer of the API server, or without a first word of the operator."""
STUCK = 600.0
"""Seconds with one and the same pending reason, after which the quickstart gives up."""


class JobFailedError(QuickstartError):
    """The job ended in Failed; the text is its failure digest."""


def prepared(status: Status) -> bool:
    return "prepared" in status


def training(status: Status) -> bool:
    """The gang is up, or has done its work already."""
    return status.get("phase") == "Training" or trained(status)


def trained(status: Status) -> bool:
    return "trained" in status


def succeeded(status: Status) -> bool:
    return condition(status, "Succeeded") == "True"


def finished(status: Status) -> bool:
    """Succeeded or failed; no pod of the job is left."""
    return succeeded(status) or condition(status, "Failed") == "True"


def condition(status: Status, type_: str) -> str:
    """True, False or Unknown."""
    for entry in status.get("conditions", ()):
        if entry["type"] == type_:
            return str(entry["status"])
    return "Unknown"


@dataclass
class Follower:
    """Waits for one moment of a job's life after the other."""

    kube: Kube
    name: str
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def until(self, reached: Callable[[Status], bool], report: Reporter) -> Status:
        """The first status for which ``reached`` holds.

        Raises JobFailedError with the digest, or QuickstartError where nothing moves any more.
        """
        began = heard = self.clock()
        waiting_for, waiting_since = "", began
        while True:
            status = self._status()
            now = self.clock()
            if status is None:
                if now - heard > SILENCE:
                    raise QuickstartError(
                        f"The API server has not answered for {SILENCE:.0f} s: is the cluster up "
                        "(`make cluster` brings it back, the job goes on)?"
                    )
            else:
                heard = now
                if reached(status):
                    return status
                if condition(status, "Failed") == "True":
                    raise JobFailedError(digest(self.name, status))
                if status.get("observedGeneration", -1) < 0 and now - began > SILENCE:
                    raise QuickstartError(
                        f"The operator has not looked at the job for {SILENCE:.0f} s: see "
                        "`kubectl logs --namespace finetune-system deployment/finetune-operator`."
                    )
                reason = status.get("pendingReason", "")
                if reason != waiting_for:
                    waiting_for, waiting_since = reason, now
                if reason and now - waiting_since > STUCK:
                    raise QuickstartError(f"The job has waited for {STUCK:.0f} s: {reason}")
                report(describe(status), fraction(status))
            self.sleep(INTERVAL)

    def _status(self) -> Status | None:
        try:
            job = self.kube.get(API_VERSION, KIND, self.name, NAMESPACE)
        except (HTTPError, OSError):
            return None
        except ApiException as error:
            if error.status in (401, 403):
                refused = f"The cluster refuses to show the job: {error.reason}."
                raise QuickstartError(refused) from error
            return None
        if job is None:
            raise QuickstartError(
                f"The FineTuneJob {NAMESPACE}/{self.name} was deleted while it was followed."
            )
        status: Status = job.get("status", {})
        return status


def describe(status: Status) -> str:
    """Half a sentence: what the job waits for, or how far it is."""
    if reason := status.get("pendingReason"):
        return str(reason)
    progress, metrics = status.get("progress", {}), status.get("metrics", {})
    if status.get("phase") != "Training":
        return str(status.get("phase", "waiting for the operator"))
    parts = []
    if steps := progress.get("steps"):
        parts.append(f"step {progress.get('step', 0)} of {steps}")
    elif progress.get("phase"):
        parts.append(str(progress["phase"]))
    if loss := metrics.get("loss"):
        parts.append(f"loss {float(loss):.2f}")
    if held_out := metrics.get("evalLoss"):
        parts.append(f"held-out {float(held_out):.2f}")
    if speed := progress.get("tokensPerSecond"):
        parts.append(f"{float(speed):.0f} tokens/s")
    if eta := progress.get("etaSeconds"):
        parts.append(f"{seconds(eta)} left")
    return ", ".join(parts) or "Training"


def summary(status: Status) -> str:
    """What prepare found, in half a sentence."""
    model, data = status.get("model", {}), status.get("data", {})
    parts = []
    if parameters := model.get("parameters"):
        parts.append(f"{model.get('architecture', 'model')} with {parameters / 1e6:.0f} M")
    if data:
        parts.append(f"{data.get('kept', 0)} rows, {data.get('tokens', 0)} tokens")
        parts.append(f"{data.get('evalRows', 0)} held out")
    return ", ".join(parts)


def held_out_losses(status: Status) -> tuple[float, float]:
    """Loss of base and tuned model on the held-out rows, in nats per token."""
    metrics = status.get("metrics", {})
    try:
        return float(metrics["baseline"]["evalLoss"]), float(metrics["evalLoss"])
    except KeyError as error:
        raise QuickstartError(
            f"The job succeeded, but its status.metrics has no {error}: the proof cannot be "
            "judged without the losses of base and tuned model."
        ) from error


def fraction(status: Status) -> float | None:
    """Steps done of all steps while it trains, 0 to 1."""
    progress = status.get("progress", {})
    if status.get("phase") != "Training" or not progress.get("steps"):
        return None
    return float(progress.get("step", 0)) / float(progress["steps"])


def digest(name: str, status: Status) -> str:
    """The failure that counts, on a few lines: what, where, why, what to do, last words."""
    failure = status.get("failure", {})
    where = [
        f"{label} {failure[key]}"
        for key, label in (
            ("stage", "stage"), ("rank", "rank"), ("pod", "pod"), ("node", "node"),
            ("step", "step"), ("exitCode", "exit code"),
        )
        if failure.get(key) is not None
    ]  # fmt: skip
    lines = [f"The job {name} failed: {failure.get('class', 'Unknown')} ({', '.join(where)})"]
    lines += [str(failure[key]) for key in ("message", "hint") if failure.get(key)]
    if not failure:
        lines = [f"The job {name} failed: {_failed_message(status)}"]
    return "\n".join([*lines, *(f"    {line}" for line in failure.get("lines", ()))])


def _failed_message(status: Status) -> str:
    for entry in status.get("conditions", ()):
        if entry["type"] == "Failed":
            return f"{entry.get('reason', '')}: {entry.get('message', '')}"
    return "its status does not say why"
