"""How the result may be served: a Deployment of vLLM and a Service, for people to apply.

The operator never creates them. They stand as text in the ConfigMap ``<name>-run``, and export
copies them to the folder of the result.
"""

from __future__ import annotations

from typing import Any

import yaml

from ..api.types import GROUP, OutputFormat
from ..plan import TrainingPlan

PORT = 8000
MODEL = "/model"
START_SECONDS = 1800
_HEADER = """\
# Serves the result of FineTuneJob {key}: kubectl apply -n {namespace} -f serving.yaml
# Change what your cluster needs, such as the number of GPUs and where the pod may run.
"""


def serving_manifest(plan: TrainingPlan) -> str | None:
    """The text of ``serving.yaml``; None where there is no merged model to serve.

    Applied in the job's namespace after the job succeeded, since it mounts the result's claim.
    """
    if OutputFormat.MERGED not in plan.spec.output.formats:
        return None
    header = _HEADER.format(key=plan.key, namespace=plan.key.namespace)
    return header + yaml.dump_all(
        [_deployment(plan), _service(plan)], Dumper=_Dumper, sort_keys=False
    )


class _Dumper(yaml.CSafeDumper):
    """What occurs twice is written twice, instead of an anchor and a reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _name(plan: TrainingPlan) -> str:
    return f"{plan.key.name}-serving"


def _labels(plan: TrainingPlan) -> dict[str, str]:
    """Not those by which the operator knows its own children."""
    return {"app.kubernetes.io/name": "vllm", "app.kubernetes.io/instance": _name(plan)}


def _metadata(plan: TrainingPlan) -> dict[str, Any]:
    return {
        "name": _name(plan),
        "labels": _labels(plan),
        "annotations": {f"{GROUP}/served-job": plan.key.name},
    }


def _deployment(plan: TrainingPlan) -> dict[str, Any]:
    template = {"metadata": {"labels": _labels(plan)}, "spec": _pod(plan)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(plan),
        "spec": {
            "replicas": 1,
            # A second pod beside the first would need a second GPU.
            "strategy": {"type": "Recreate"},
            "progressDeadlineSeconds": START_SECONDS,
            "selector": {"matchLabels": _labels(plan)},
            "template": template,
        },
    }


def _pod(plan: TrainingPlan) -> dict[str, Any]:
    probe = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 10}
    folder = f"{plan.output_path}/merged" if plan.output_path else "merged"
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "vllm",
                "image": plan.platform.settings.serving_image,
                # Not left to the image's entrypoint, which has changed before.
                "command": ["vllm", "serve", MODEL],
                "args": [
                    f"--served-model-name={plan.key.name}",
                    f"--port={PORT}",
                ],
                "env": [
                    # Libraries ask for a home, and for a name that uid 1000 may not have.
                    {"name": "HOME", "value": "/tmp"},  # noqa: S108
                    {"name": "USER", "value": "vllm"},
                    {"name": "HF_HUB_OFFLINE", "value": "1"},
                ],
                "ports": [{"name": "http", "containerPort": PORT}],
                "startupProbe": {**probe, "failureThreshold": START_SECONDS // 10},
                "readinessProbe": probe,
                "livenessProbe": {**probe, "failureThreshold": 6},
                "resources": {"limits": {"nvidia.com/gpu": 1}},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "model", "mountPath": MODEL, "subPath": folder, "readOnly": True},
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
                    {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
                ],
            }
        ],
        "volumes": [
            {
                "name": "model",
                "persistentVolumeClaim": {"claimName": plan.output_claim or plan.claim_name},
            },
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
        ],
    }
    return pod


def _service(plan: TrainingPlan) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(plan),
        "spec": {
            "selector": _labels(plan),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }
