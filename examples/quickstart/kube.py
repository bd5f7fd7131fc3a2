"""The few calls that the quickstart makes to an API server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError, ResourceNotFoundError

from quickstart.errors import QuickstartError

FIELD_MANAGER = "quickstart"
Object = dict[str, Any]


class Kube:
    """Objects as plain dicts, as in YAML."""

    def __init__(self, kubeconfig: Path | None, context: str | None = None) -> None:
        """``kubeconfig``: None means the user's own ($KUBECONFIG, else ~/.kube/config)."""
        self.kubeconfig = kubeconfig
        self.context = context
        try:
            api = config.new_client_from_config(  # type: ignore[no-untyped-call]
                config_file=str(kubeconfig) if kubeconfig else None, context=context
            )
        except ConfigException as error:
            raise QuickstartError(
                f"No cluster to talk to: {str(error).rstrip('.')}. CONTEXT must name a context of "
                "your kubeconfig (`kubectl config get-contexts`)."
            ) from error
        self._api = api
        self._core = client.CoreV1Api(api)
        self._dynamic: DynamicClient | None = None

    def version(self) -> tuple[int, int]:
        """Kubernetes version of the server, for instance (1, 36)."""
        info = client.VersionApi(self._api).get_code()
        return int(info.major), int(info.minor.rstrip("+"))

    def apply(self, manifest: Object) -> Object:
        """Server-side apply: create the object or bring it to what the manifest says."""
        resource = self._resource(manifest["apiVersion"], manifest["kind"])
        meta = manifest["metadata"]
        return _plain(
            resource.server_side_apply(
                body=manifest,
                name=meta["name"],
                namespace=meta.get("namespace"),
                field_manager=FIELD_MANAGER,
                force_conflicts=True,
            )
        )

    def create(self, manifest: Object) -> Object:
        resource = self._resource(manifest["apiVersion"], manifest["kind"])
        return _plain(
            resource.create(body=manifest, namespace=manifest["metadata"].get("namespace"))
        )

    def get(
        self, version: str, kind: str, name: str, namespace: str | None = None
    ) -> Object | None:
        """The object, or None where neither it nor its kind exists."""
        try:
            resource = self._resource(version, kind)
            return _plain(resource.get(name=name, namespace=namespace))
        except (NotFoundError, ResourceNotFoundError):
            return None

    def list(self, version: str, kind: str, namespace: str, selector: str = "") -> list[Object]:
        found = self._resource(version, kind).get(namespace=namespace, label_selector=selector)
        return list(_plain(found).get("items", []))

    def delete(self, version: str, kind: str, name: str, namespace: str) -> None:
        """Delete the object after its dependents; no error where it is gone already."""
        try:
            self._resource(version, kind).delete(
                name=name, namespace=namespace, body={"propagationPolicy": "Foreground"}
            )
        except NotFoundError:
            return

    def logs(self, namespace: str, pod: str, container: str) -> str:
        """The container's whole output. Empty where it has not started."""
        try:
            answer: Any = self._core.read_namespaced_pod_log(
                pod, namespace, container=container, _preload_content=False
            )
        except ApiException as error:
            if error.status in (400, 404):
                return ""
            raise
        return str(answer.data.decode(errors="replace"))

    def _resource(self, version: str, kind: str) -> Any:
        if self._dynamic is None:
            self._dynamic = DynamicClient(self._api)  # type: ignore[no-untyped-call]
        return self._dynamic.resources.get(api_version=version, kind=kind)


def refusal(error: ApiException) -> str:
    """The API server's sentence out of a refused request."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"


def _plain(resource: Any) -> Object:
    plain: Object = resource.to_dict()
    return plain
