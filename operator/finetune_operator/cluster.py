"""The door to the API server: raw JSON in and out, errors translated once.

The official client does connections, credentials and retries of tokens; its typed models are left
out, because they cost more time than all decisions together.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from .api.types import API_VERSION, GROUP, KIND, PLURAL, VERSION
from .engine.store import Key
from .engine.together import Together
from .engine.wire import parse
from .errors import (
    ClusterError,
    Forbidden,
    Invalid,
    NameConflict,
    NotThere,
    Refused,
    Stale,
    Unavailable,
)
from .objects.labels import JOB_LABEL
from .observed import Admission, ChildJob, ChildPod, StoredJob
from .policies.gpu_budget import KEY as GPU_HOURS
from .policies.validity import Claim
from .reading import read_admission, read_child_job, read_child_pod, read_job

FIELD_MANAGER = "finetune-operator"
TIMEOUT = aiohttp.ClientTimeout(total=15)
PAGE = 500
CHILDREN_OF = 50
"""FineTuneJobs whose children one list asks for: their names must fit into an address."""
APPLY = "application/apply-patch+yaml"
_CORE = "/api/v1"
_PATHS = {
    "FineTuneJob": (f"/apis/{GROUP}/{VERSION}", PLURAL),
    "Job": ("/apis/batch/v1", "jobs"),
    "Pod": (_CORE, "pods"),
    "Service": (_CORE, "services"),
    "ConfigMap": (_CORE, "configmaps"),
    "PersistentVolumeClaim": (_CORE, "persistentvolumeclaims"),
    "Event": (_CORE, "events"),
    "Workload": ("/apis/kueue.x-k8s.io/v1beta2", "workloads"),
}


WATCHED = ("Pod", "Job", "FineTuneJob")
_LACKS_RIGHT = re.compile(r"is forbidden: User .* cannot \w+ resource")
"""RBAC's words. Quotas, policies and webhooks say no with the same code, and other ones."""


class Children(NamedTuple):
    """What a live read found."""

    jobs: tuple[ChildJob, ...]
    pods: tuple[ChildPod, ...]
    version: int
    """Objects that are newer than this may be missing."""


class Cluster(Protocol):
    """What decisions need from Kubernetes. Every method may raise ``ClusterError``."""

    async def job(self, key: Key) -> StoredJob | None: ...

    async def children(self, key: Key) -> Children:
        """Jobs and pods that bear the job's label, whoever made them."""

    async def write_status(self, job: StoredJob, status: Mapping[str, Any]) -> StoredJob:
        """Replace the status. Raises ``Stale`` where the object has changed since ``job``."""

    async def ensure(
        self, manifest: Mapping[str, Any], owner_uid: str, *, fresh: bool = False
    ) -> None:
        """Create, or bring back to the manifest. Raises ``Refused``, ``NameConflict``."""

    async def create_job(self, manifest: Mapping[str, Any], owner_uid: str) -> ChildJob:
        """Create once; an own Job of that name is fine. Raises ``Refused``, ``NameConflict``."""

    async def delete(self, kind: str, key: Key, name: str, uid: str | None, owner_uid: str) -> None:
        """Delete an own object and, in the background, what belongs to it."""

    async def post_event(self, event: Mapping[str, Any]) -> None: ...

    async def claim(self, namespace: str, name: str) -> Claim | None: ...

    async def config_map_keys(self, namespace: str, name: str) -> frozenset[str] | None: ...

    async def config_map(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """Data of a ConfigMap; None: there is none."""

    async def gpu_hours(self, namespace: str, name: str) -> str | None:
        """What stands in a ConfigMap with a budget; None where there is none."""

    async def newest_warning(self, namespace: str, uid: str) -> tuple[str, str] | None:
        """Reason and message of the newest Warning event about an object."""

    async def admission(self, namespace: str, job_uid: str) -> Admission | None:
        """What Kueue says about a Job; None: there is no Kueue, or it must not be asked."""


class KubernetesCluster:
    """``Cluster`` on a real API server."""

    def __init__(
        self, client: ApiClient, count: Callable[[str, str, int], None] = lambda *_: None
    ) -> None:
        """``count(verb, kind, code)`` is called for every answer; code 0: there was none."""
        self._client = client
        self._count = count
        self._children: dict[str, Together[Key, Children]] = {}

    async def kubernetes_minor(self) -> int:
        version = await self._request("GET", "", "/version")
        return int("".join(filter(str.isdigit, version["minor"])))

    async def listing(
        self, kind: str, namespaces: Sequence[str]
    ) -> AsyncIterator[tuple[list[dict[str, Any]], int]]:
        """All objects of a kind that concern us, page by page, each with the list's version."""
        query = {} if kind == KIND else {"labelSelector": JOB_LABEL}
        for namespace in namespaces or (None,):
            more: str | None = None
            while True:
                page = {**query, "limit": str(PAGE), **({"continue": more} if more else {})}
                answer = await self._request("GET", kind, _path(kind, namespace), page)
                meta = answer["metadata"]
                yield answer["items"], int(meta["resourceVersion"])
                more = meta.get("continue")
                if not more:
                    break

    async def readable(self, namespaces: Sequence[str]) -> None:
        """Raises ``ClusterError`` where a kind that is watched cannot be listed."""
        for kind in WATCHED:
            for namespace in namespaces or (None,):
                await self._request("GET", kind, _path(kind, namespace), {"limit": "1"})

    async def job(self, key: Key) -> StoredJob | None:
        try:
            return read_job(await self._request("GET", KIND, _path(KIND, *key)))
        except NotThere:
            return None

    async def children(self, key: Key) -> Children:
        if key.namespace not in self._children:
            read = partial(self._children_of, key.namespace)
            self._children[key.namespace] = Together(read, at_most=CHILDREN_OF)
        return await self._children[key.namespace].ask(key)

    async def _children_of(self, namespace: str, keys: tuple[Key, ...]) -> dict[Key, Children]:
        """The API server goes through the whole namespace for each list: so one list for many."""
        query = {"labelSelector": f"{JOB_LABEL} in ({','.join(key.name for key in keys)})"}
        # One after the other: a Job that is complete has pods that have said their last words.
        jobs = await self._request("GET", "Job", _path("Job", namespace), query)
        pods = await self._request("GET", "Pod", _path("Pod", namespace), query)
        version = min(int(found["metadata"]["resourceVersion"]) for found in (jobs, pods))
        child_jobs = tuple(map(read_child_job, jobs["items"]))
        child_pods = tuple(map(read_child_pod, pods["items"]))
        return {
            key: Children(
                tuple(job for job in child_jobs if job.key == key),
                tuple(pod for pod in child_pods if pod.key == key),
                version,
            )
            for key in keys
        }

    async def write_status(self, job: StoredJob, status: Mapping[str, Any]) -> StoredJob:
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {
                "name": job.key.name,
                "namespace": job.key.namespace,
                "uid": job.uid,
                "resourceVersion": str(job.version),
            },
            "spec": job.spec,
            "status": status,
        }
        path = _path(KIND, *job.key) + "/status"
        return read_job(await self._request("PUT", KIND, path, body=body))

    async def ensure(
        self, manifest: Mapping[str, Any], owner_uid: str, *, fresh: bool = False
    ) -> None:
        kind, meta = manifest["kind"], manifest["metadata"]
        path = _path(kind, meta["namespace"], meta["name"])
        try:
            found = await (self._create(manifest) if fresh else self._request("GET", kind, path))
        except NotThere:
            found = await self._create(manifest)
        if not _owned(found, owner_uid):
            raise NameConflict(kind, meta["name"])
        if kind != "PersistentVolumeClaim" and not _contains(found, manifest):
            query = {"fieldManager": FIELD_MANAGER, "force": "true"}
            await self._request("PATCH", kind, path, query, manifest, APPLY)

    async def create_job(self, manifest: Mapping[str, Any], owner_uid: str) -> ChildJob:
        found = await self._create(manifest)
        if not _owned(found, owner_uid):
            raise NameConflict("Job", manifest["metadata"]["name"])
        return read_child_job(found)

    async def delete(self, kind: str, key: Key, name: str, uid: str | None, owner_uid: str) -> None:
        path = _path(kind, key.namespace, name)
        try:
            if uid is None:
                found = await self._request("GET", kind, path)
                if not _owned(found, owner_uid):
                    return
                uid = found["metadata"]["uid"]
            options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
            await self._request("DELETE", kind, path, body=options)
        except (NotThere, Stale):
            return  # gone already, or a successor of the same name

    async def post_event(self, event: Mapping[str, Any]) -> None:
        path = _path("Event", event["metadata"]["namespace"])
        try:
            await self._request("POST", "Event", path, body=event)
        except Stale:
            return  # the same event was posted before

    async def claim(self, namespace: str, name: str) -> Claim | None:
        kind = "PersistentVolumeClaim"
        try:
            found = await self._request("GET", kind, _path(kind, namespace, name))
        except NotThere:
            return None
        modes = (found.get("spec") or {}).get("accessModes") or ()
        return Claim(tuple(modes), bound=(found.get("status") or {}).get("phase") == "Bound")

    async def config_map_keys(self, namespace: str, name: str) -> frozenset[str] | None:
        data = await self.config_map(namespace, name)
        return None if data is None else frozenset(data)

    async def gpu_hours(self, namespace: str, name: str) -> str | None:
        data = await self.config_map(namespace, name)
        return None if data is None else data.get(GPU_HOURS)

    async def config_map(self, namespace: str, name: str) -> Mapping[str, str] | None:
        try:
            found = await self._request("GET", "ConfigMap", _path("ConfigMap", namespace, name))
        except NotThere:
            return None
        return found.get("data") or {}

    async def newest_warning(self, namespace: str, uid: str) -> tuple[str, str] | None:
        query = {"fieldSelector": f"involvedObject.uid={uid},type=Warning", "limit": "50"}
        answer = await self._request("GET", "Event", _path("Event", namespace), query)
        events = answer["items"]
        if not events:
            return None
        newest = max(events, key=_event_time)
        return newest.get("reason", ""), newest.get("message", "")[:1024]

    async def admission(self, namespace: str, job_uid: str) -> Admission | None:
        query = {"labelSelector": f"kueue.x-k8s.io/job-uid={job_uid}"}
        try:
            answer = await self._request("GET", "Workload", _path("Workload", namespace), query)
        except (NotThere, Forbidden):
            return None
        return read_admission(answer["items"])

    async def _create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Create; where the name is taken, what took it."""
        kind, meta = manifest["kind"], manifest["metadata"]
        try:
            return await self._request(
                "POST",
                kind,
                _path(kind, meta["namespace"]),
                {"fieldManager": FIELD_MANAGER},
                manifest,
            )
        except Stale:
            return await self._request("GET", kind, _path(kind, meta["namespace"], meta["name"]))

    async def _request(
        self,
        verb: str,
        kind: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        headers.update(self._client.default_headers)
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, verb, body)
        url = self._client.configuration.host + path
        if query:
            url += "?" + urlencode(query)
        code = 0
        try:
            answer = await self._client.rest_client.request(  # type: ignore[no-untyped-call]
                verb, url, headers=headers, body=body, _request_timeout=TIMEOUT
            )
            code, data = answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{verb} {path}: {error or type(error).__name__}") from error
        finally:
            self._count(verb, kind, code)
        if code < 300:
            result: dict[str, Any] = parse(data)
            return result
        raise _error(verb, kind, path, code, data, answer.headers)


async def connect(count: Callable[[str, str, int], None]) -> KubernetesCluster:
    """Connect as the pod's ServiceAccount, or as KUBECONFIG says outside a cluster."""
    configuration = Configuration()
    try:
        config.load_incluster_config(  # type: ignore[no-untyped-call]
            client_configuration=configuration
        )
    except config.ConfigException:
        await config.load_kube_config(  # type: ignore[no-untyped-call]
            client_configuration=configuration
        )
    # A proxy, if any, stands in the kubeconfig: aiohttp would ask two threads in every request.
    configuration.client_session_kwargs = {"trust_env": False}
    return KubernetesCluster(ApiClient(configuration), count)


def watched_paths(namespaces: Sequence[str]) -> list[str]:
    """Of the addresses whose lists and watches the operator lives on."""
    return [_path(kind, namespace) for kind in WATCHED for namespace in namespaces or (None,)]


def _path(kind: str, namespace: str | None = None, name: str | None = None) -> str:
    prefix, plural = _PATHS[kind]
    where = f"/namespaces/{quote(namespace)}" if namespace else ""
    return f"{prefix}{where}/{plural}" + (f"/{quote(name)}" if name else "")


def _error(
    verb: str, kind: str, path: str, code: int, data: bytes, headers: Mapping[str, str]
) -> ClusterError:
    """The most specific own error for an answer."""
    try:
        status = parse(data)
        message = str(status.get("message", ""))
    except (ValueError, AttributeError):
        status, message = {}, data[:200].decode(errors="replace")
    text = f"{verb} {path}: {code} {message}"[:1024]
    if code == 404:
        return NotThere(text)
    if code == 403 and (verb == "GET" or _LACKS_RIGHT.search(message)):
        return Forbidden(_missing_right(verb, kind, path))
    if code == 409:
        return Stale(text)
    if code == 422 and verb == "PUT":
        return Invalid(message[:512])
    if code == 429 or code >= 500 or "NamespaceTerminating" in str(status.get("details", "")):
        after = headers.get("Retry-After", "")
        return Unavailable(text, retry_after=float(after) if after.isdecimal() else 0.0)
    if does := {"POST": "create", "PATCH": "change"}.get(verb):
        reason = "QuotaExceeded" if "exceeded quota" in message else "CreationRefused"
        return Refused(f"the API server refuses to {does} {kind}: {message}"[:1024], reason=reason)
    return ClusterError(text)


def _missing_right(verb: str, kind: str, path: str) -> str:
    """``the operator may not get configmaps in namespace a: …``."""
    prefix, plural = _PATHS.get(kind, ("", path))
    rest = path.removeprefix(prefix).strip("/").split("/")
    where = f" in namespace {rest[1]}" if rest[0] == "namespaces" else ""
    reads = "list" if rest[-1] == plural else "get"
    does = {"GET": reads, "POST": "create", "PUT": "update"}.get(verb, verb.lower())
    what = plural + ("/status" if rest[-1] == "status" else "")
    group = prefix.removeprefix("/apis/").partition("/")[0] if prefix != _CORE else ""
    of_group = f" of API group {group}" if group else ""
    return (
        f"the operator may not {does} {what}{where}: give the role of its service account the "
        f"verb {does} on {what}{of_group}, as the chart's own role has it"
    )


def _owned(found: Mapping[str, Any], owner_uid: str) -> bool:
    owners = found["metadata"].get("ownerReferences") or ()
    return any(owner.get("uid") == owner_uid for owner in owners)


def _contains(found: Any, wanted: Any) -> bool:
    """Everything that we want is there; what others added does not matter."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            name in found and _contains(found[name], value) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(map(_contains, found, wanted))
        )
    return bool(found == wanted)


def _event_time(event: Mapping[str, Any]) -> str:
    return str(
        event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
        or ""
    )
