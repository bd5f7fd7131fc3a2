"""One namespace of a row: FineTuneJobs by plain requests, hundreds of them without kubectl."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest
from e2e.jobs import finetune_job

from local_cluster.api import MERGE_PATCH, Api, ApiError

TERMINAL = ("Succeeded", "Failed")
KINDS = {
    "FineTuneJob": "/apis/finetune.dev/v1alpha1/namespaces/{}/finetunejobs",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Service": "/api/v1/namespaces/{}/services",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
}


class Site:
    """FineTuneJobs of one namespace as their user sees them."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api, self.namespace = api, namespace

    def path(self, kind: str, name: str = "") -> str:
        return KINDS[kind].format(self.namespace) + (f"/{name}" if name else "")

    def create(self, name: str, *, steps: int = 5, seed: int = 1, **spec: Any) -> None:
        """As ``e2e.jobs.Jobs.apply``."""
        body = finetune_job(name, steps, seed, spec)
        self.api.json("POST", self.path("FineTuneJob"), body)

    def patch(self, name: str, **spec: Any) -> None:
        self.api.json("PATCH", self.path("FineTuneJob", name), {"spec": spec}, MERGE_PATCH)

    def delete(self, name: str) -> None:
        self.api.json("DELETE", self.path("FineTuneJob", name))

    def list(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api.json("GET", self.path(kind))["items"]
        return [{"kind": kind, **item} for item in found]

    def jobs(self) -> dict[str, dict[str, Any]]:
        """FineTuneJobs by name."""
        return {item["metadata"]["name"]: item for item in self.list("FineTuneJob")}

    def statuses(self) -> dict[str, dict[str, Any]]:
        return {name: item.get("status") or {} for name, item in self.jobs().items()}

    def phase(self, name: str) -> str:
        return str(self.statuses().get(name, {}).get("phase", ""))

    def pods_running(self, names: Collection[str], *, or_done: bool = False) -> dict[str, int]:
        """UID of each running pod of these jobs with its restarts; or_done: of those, too, that
        have ended well."""
        wanted = ("Running", "Succeeded") if or_done else ("Running",)
        return {
            pod["metadata"]["uid"]: sum(
                container.get("restartCount", 0)
                for container in pod["status"].get("containerStatuses") or ()
            )
            for pod in self.list("Pod")
            if _job_of(pod) in names and pod["status"].get("phase") in wanted
        }

    def living_pods(self, name: str) -> list[str]:
        """Names of a job's pods whose containers have not ended."""
        return [
            pod["metadata"]["name"]
            for pod in self.list("Pod")
            if _job_of(pod) == name and pod["status"].get("phase") not in TERMINAL
        ]

    def wait_phase(self, names: Iterable[str], *phases: str, seconds: float = 240) -> None:
        """Until each of these jobs has been seen in one of the phases."""
        left = set(names)

        def seen() -> bool:
            left.difference_update(
                n for n, s in self.statuses().items() if s.get("phase") in phases
            )
            return not left

        self.wait(lambda: f"{sorted(left)} in {phases}, not {self.summary(left)}", seen, seconds)

    def wait_ended(self, names: Iterable[str] | None = None, *, seconds: float = 300) -> None:
        """Until these jobs, or all that there are, have ended well."""

        def over() -> bool:
            found = self.statuses()
            return all(found[n].get("phase") in TERMINAL for n in names or found)

        self.wait(lambda: f"the end of {self.summary(names)}", over, seconds)
        failed = {n: s.get("failure") for n, s in self.statuses().items() if s["phase"] == "Failed"}
        assert not failed, json.dumps(failed)

    def wait_training(self, names: Iterable[str], seconds: float = 240) -> None:
        """Until each of these jobs has told of a step."""

        def steps() -> bool:
            found = self.statuses()
            return all((found[name].get("progress") or {}).get("step") for name in names)

        self.wait(lambda: f"a step of {self.summary(names)}", steps, seconds)

    def summary(self, names: Iterable[str] | None = None) -> str:
        found = self.statuses()
        return ", ".join(
            f"{n}: {s.get('phase')} a{s.get('attempt')} {s.get('pendingReason', '')}"
            for n, s in sorted(found.items())
            if names is None or n in names
        )

    def wait(
        self, what: Callable[[], str], probe: Callable[[], Any], seconds: float, every: float = 0.4
    ) -> None:
        deadline = time.monotonic() + seconds
        while not self._try(probe):
            if time.monotonic() > deadline:
                pytest.fail(f"{what()}: not within {seconds:.0f} s")
            time.sleep(every)

    @staticmethod
    def _try(probe: Callable[[], Any]) -> Any:
        """The API server may be away: that is what some rows are about."""
        try:
            return probe()
        except OSError:
            return None
        except ApiError as error:
            if error.status == 429 or error.status >= 500:  # it has just come back
                return None
            raise


def _job_of(pod: dict[str, Any]) -> str:
    """The FineTuneJob that a pod works for."""
    return str((pod["metadata"].get("labels") or {}).get("finetune.dev/job", ""))
