"""The door to the API server, against a scripted HTTP server: what is sent, what errors become."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from builders import KEY, UID, make_job
from kubernetes.aio.client import ApiClient, Configuration

from finetune_operator.cluster import KubernetesCluster
from finetune_operator.engine.store import Key
from finetune_operator.errors import (
    ClusterError,
    Forbidden,
    Invalid,
    NameConflict,
    NotThere,
    Refused,
    Stale,
    Unavailable,
)
from finetune_operator.observed import Admission
from finetune_operator.policies.validity import Claim

OWNED = {"ownerReferences": [{"uid": UID}]}
CONFIG_MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "demo-run", "namespace": KEY.namespace},
    "data": {"run.json": "{}"},
}
JOB = {
    "kind": "Job",
    "metadata": {"name": "demo-p0", "namespace": KEY.namespace, "uid": "j", "resourceVersion": "7"},
}


class Script:
    """Answers by verb and path; remembers what was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.headers: list[dict[str, str]] = []

    def on(self, verb: str, path: str, *answers: tuple[int, Any]) -> None:
        self.answers[verb, path] = list(answers)

    async def handle(self, request: web.Request) -> web.Response:
        text = await request.text()
        body = json.loads(text) if text else None
        self.asked.append((request.method, request.path, dict(request.query), body))
        self.headers.append(dict(request.headers))
        queue = self.answers.get((request.method, request.path), [(404, {"message": "not found"})])
        code, data = queue.pop(0) if len(queue) > 1 else queue[0]
        headers = {"Retry-After": "3"} if code == 429 else {}
        return web.json_response(data, status=code, headers=headers)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def cluster(script: Script) -> AsyncIterator[KubernetesCluster]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    configuration = Configuration(host=f"http://{host}:{port}")
    configuration.api_key = {"BearerToken": "Bearer secret"}
    client = ApiClient(configuration)
    yield KubernetesCluster(client)
    await client.close()
    await runner.cleanup()


CONFIG_MAPS = f"/api/v1/namespaces/{KEY.namespace}/configmaps"
JOBS = f"/apis/batch/v1/namespaces/{KEY.namespace}/jobs"
PODS = f"/api/v1/namespaces/{KEY.namespace}/pods"
THE_JOB = f"/apis/finetune.dev/v1alpha1/namespaces/{KEY.namespace}/finetunejobs/{KEY.name}"


async def test_a_status_is_put_whole_with_the_version_that_was_read(
    script: Script, cluster: KubernetesCluster
) -> None:
    meta = {"namespace": KEY.namespace, "name": KEY.name, "uid": UID, "resourceVersion": "2"}
    script.on("PUT", f"{THE_JOB}/status", (200, {"metadata": meta, "status": {"phase": "Pending"}}))
    stored = await cluster.write_status(make_job(), {"phase": "Pending"})
    assert stored.version == 2
    _, _, _, body = script.asked[0]
    assert body["metadata"]["resourceVersion"] == "1"
    assert body["status"] == {"phase": "Pending"}
    assert script.headers[0]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("code", "body", "error"),
    [
        (404, {"message": "gone"}, NotThere),
        (409, {"message": "changed"}, Stale),
        (429, {"message": "slow down"}, Unavailable),
        (500, {"message": "etcd"}, Unavailable),
        (503, "plain text", Unavailable),
        (422, {"message": "invalid"}, Invalid),
        (400, {"message": "bad"}, ClusterError),
    ],
)
async def test_an_answer_becomes_an_error(
    script: Script, cluster: KubernetesCluster, code: int, body: Any, error: type[Exception]
) -> None:
    script.on("PUT", f"{THE_JOB}/status", (code, body))
    with pytest.raises(error) as caught:
        await cluster.write_status(make_job(), {})
    assert type(caught.value) is error
    if code == 429:
        assert caught.value.retry_after == 3.0  # type: ignore[attr-defined]


async def test_no_answer_is_an_error_that_says_so(cluster: KubernetesCluster) -> None:
    cluster._client.configuration.host = "http://127.0.0.1:9"
    with pytest.raises(Unavailable, match="GET"):
        await cluster.job(KEY)


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (403, 'jobs.batch "x" is forbidden: exceeded quota: team', "QuotaExceeded"),
        (422, "Job is invalid: spec.template…", "CreationRefused"),
        (403, "denied by policy", "CreationRefused"),
    ],
)
async def test_a_refused_creation_keeps_the_servers_words(
    script: Script, cluster: KubernetesCluster, code: int, message: str, reason: str
) -> None:
    script.on("POST", JOBS, (code, {"message": message}))
    with pytest.raises(Refused, match="refuses to create Job") as caught:
        await cluster.create_job(JOB, UID)
    assert caught.value.reason == reason
    assert message in str(caught.value)


RBAC = (
    'jobs.batch is forbidden: User "system:serviceaccount:finetune-system:op" cannot create '
    'resource "jobs" in API group "batch" in the namespace "team-a"'
)


async def test_a_right_that_is_missing_is_named(script: Script, cluster: KubernetesCluster) -> None:
    no = (403, {"message": RBAC})
    owned = {**CONFIG_MAP, "metadata": {**CONFIG_MAP["metadata"], **OWNED}, "data": {}}  # type: ignore[dict-item]
    events = f"/api/v1/namespaces/{KEY.namespace}/events"
    claim = f"/api/v1/namespaces/{KEY.namespace}/persistentvolumeclaims/work"
    script.on("POST", JOBS, no)
    script.on("DELETE", f"{JOBS}/demo-p0", no)
    script.on("GET", f"{CONFIG_MAPS}/demo-run", (200, owned))
    script.on("PATCH", f"{CONFIG_MAPS}/demo-run", no)
    script.on("GET", events, no)
    script.on("GET", claim, (403, {"message": "words of another authorizer"}))
    script.on("PUT", f"{THE_JOB}/status", no)
    asked = {
        "create jobs": cluster.create_job(JOB, UID),
        "delete jobs": cluster.delete("Job", KEY, "demo-p0", "j", UID),
        "patch configmaps": cluster.ensure(CONFIG_MAP, UID),
        "list events": cluster.newest_warning(KEY.namespace, "j"),
        "get persistentvolumeclaims": cluster.claim(KEY.namespace, "work"),
        "update finetunejobs/status": cluster.write_status(make_job(), {}),
    }
    for right, request in asked.items():
        with pytest.raises(Forbidden) as caught:
            await request
        assert str(caught.value).startswith(f"the operator may not {right} in namespace team-a: ")
    assert str(caught.value).endswith(
        "give the role of its service account the verb update on finetunejobs/status of API group "
        "finetune.dev, as the chart's own role has it"
    )


async def test_a_namespace_on_its_way_out_is_no_refusal(
    script: Script, cluster: KubernetesCluster
) -> None:
    causes = {"causes": [{"reason": "NamespaceTerminating"}]}
    script.on("POST", JOBS, (403, {"message": "forbidden", "details": causes}))
    with pytest.raises(Unavailable):
        await cluster.create_job(JOB, UID)


async def test_a_job_that_is_there_already_and_ours_is_fine(
    script: Script, cluster: KubernetesCluster
) -> None:
    mine = {**JOB, "metadata": {**JOB["metadata"], **OWNED}}  # type: ignore[dict-item]
    script.on("POST", JOBS, (409, {"message": "exists"}))
    script.on("GET", f"{JOBS}/demo-p0", (200, mine))
    assert (await cluster.create_job(JOB, UID)).uid == "j"
    script.on("GET", f"{JOBS}/demo-p0", (200, JOB))
    with pytest.raises(NameConflict, match="Job demo-p0 exists"):
        await cluster.create_job(JOB, UID)


async def test_what_is_there_as_wanted_is_left_alone(
    script: Script, cluster: KubernetesCluster
) -> None:
    meta = {**CONFIG_MAP["metadata"], **OWNED, "annotations": {"of": "somebody"}}  # type: ignore[dict-item]
    script.on("GET", f"{CONFIG_MAPS}/demo-run", (200, {**CONFIG_MAP, "metadata": meta}))
    await cluster.ensure(CONFIG_MAP, UID)
    assert [verb for verb, *_ in script.asked] == ["GET"]


async def test_what_drifted_is_applied_by_the_server(
    script: Script, cluster: KubernetesCluster
) -> None:
    meta = {**CONFIG_MAP["metadata"], **OWNED}  # type: ignore[dict-item]
    drifted = {**CONFIG_MAP, "metadata": meta, "data": {"run.json": "other"}}
    script.on("GET", f"{CONFIG_MAPS}/demo-run", (200, drifted))
    script.on("PATCH", f"{CONFIG_MAPS}/demo-run", (200, {}))
    await cluster.ensure(CONFIG_MAP, UID)
    verb, _, query, body = script.asked[1]
    assert (verb, query["fieldManager"], body["data"]) == (
        "PATCH",
        "finetune-operator",
        {"run.json": "{}"},
    )
    assert script.headers[1]["Content-Type"] == "application/apply-patch+yaml"


async def test_a_change_that_is_refused_becomes_a_condition_too(
    script: Script, cluster: KubernetesCluster
) -> None:
    meta = {**CONFIG_MAP["metadata"], **OWNED}  # type: ignore[dict-item]
    drifted = {**CONFIG_MAP, "metadata": meta, "data": {}, "immutable": True}
    script.on("GET", f"{CONFIG_MAPS}/demo-run", (200, drifted))
    script.on("PATCH", f"{CONFIG_MAPS}/demo-run", (422, {"message": "field is immutable"}))
    with pytest.raises(Refused, match="refuses to change ConfigMap: field is immutable"):
        await cluster.ensure(CONFIG_MAP, UID)


async def test_what_is_missing_is_created_and_what_is_foreign_is_refused(
    script: Script, cluster: KubernetesCluster
) -> None:
    meta = {**CONFIG_MAP["metadata"], **OWNED}  # type: ignore[dict-item]
    script.on("POST", CONFIG_MAPS, (201, {**CONFIG_MAP, "metadata": meta}))
    await cluster.ensure(CONFIG_MAP, UID)
    await cluster.ensure(CONFIG_MAP, UID, fresh=True)
    assert [verb for verb, *_ in script.asked] == ["GET", "POST", "POST"]
    script.on("GET", f"{CONFIG_MAPS}/demo-run", (200, CONFIG_MAP))
    with pytest.raises(NameConflict, match="ConfigMap demo-run"):
        await cluster.ensure(CONFIG_MAP, UID)


async def test_a_deletion_names_the_uid_and_bears_that_it_is_gone(
    script: Script, cluster: KubernetesCluster
) -> None:
    script.on("DELETE", f"{JOBS}/demo-p0", (200, {}), (409, {}), (404, {}))
    for _ in range(3):
        await cluster.delete("Job", KEY, "demo-p0", "j", UID)
    assert script.asked[0][3] == {
        "propagationPolicy": "Background",
        "preconditions": {"uid": "j"},
    }


async def test_without_a_uid_the_owner_is_asked_before_a_deletion(
    script: Script, cluster: KubernetesCluster
) -> None:
    script.on("GET", f"{CONFIG_MAPS}/demo-run", (200, CONFIG_MAP))
    await cluster.delete("ConfigMap", KEY, "demo-run", None, UID)
    assert [verb for verb, *_ in script.asked] == ["GET"]


async def test_an_event_that_was_posted_before_is_fine(
    script: Script, cluster: KubernetesCluster
) -> None:
    script.on("POST", f"/api/v1/namespaces/{KEY.namespace}/events", (409, {}))
    await cluster.post_event({"metadata": {"namespace": KEY.namespace}})


async def test_children_of_many_jobs_come_with_one_list_of_each_kind(
    script: Script, cluster: KubernetesCluster
) -> None:
    def child(job: str, name: str) -> dict[str, Any]:
        labels = {"finetune.dev/job": job}
        meta = {"namespace": KEY.namespace, "name": name, "uid": name, "labels": labels}
        return {"metadata": {**meta, "resourceVersion": "7"}}

    names = ("a", "b", "c", "d")
    jobs = [child(name, f"{name}-p0") for name in ("a", "b", "d")]
    pods = [child("b", "b-p0-0"), child("b", "b-p0-1")]
    script.on("GET", JOBS, (200, {"metadata": {"resourceVersion": "9"}, "items": jobs}))
    script.on("GET", PODS, (200, {"metadata": {"resourceVersion": "8"}, "items": pods}))
    elsewhere = asyncio.create_task(cluster.children(Key("forbidden", "a")))
    found = await asyncio.gather(*(cluster.children(Key(KEY.namespace, name)) for name in names))
    assert [[job.name for job in one.jobs] for one in found] == [["a-p0"], ["b-p0"], [], ["d-p0"]]
    assert [len(one.pods) for one in found] == [0, 2, 0, 0]
    assert {one.version for one in found} == {8}
    here = [(path, query) for _, path, query, _ in script.asked if KEY.namespace in path]
    selector = {"labelSelector": "finetune.dev/job in (a,b,c,d)"}
    assert here == [(JOBS, selector), (PODS, selector)]
    with pytest.raises(NotThere):  # another namespace's trouble stays there
        await elsewhere


async def test_long_lists_come_page_by_page(script: Script, cluster: KubernetesCluster) -> None:
    first = {"metadata": {"resourceVersion": "9", "continue": "more"}, "items": [1, 2]}
    last = {"metadata": {"resourceVersion": "9"}, "items": [3]}
    script.on("GET", "/apis/batch/v1/jobs", (200, first), (200, last))
    pages = [page async for page in cluster.listing("Job", ())]
    assert pages == [([1, 2], 9), ([3], 9)]
    assert script.asked[0][2]["labelSelector"] == "finetune.dev/job"
    assert script.asked[1][2]["continue"] == "more"


async def test_the_newest_warning_explains(script: Script, cluster: KubernetesCluster) -> None:
    events = [
        {"metadata": {}, "reason": "Old", "message": "a", "lastTimestamp": "2026-01-01T00:00:00Z"},
        {"metadata": {}, "reason": "New", "message": "b", "eventTime": "2026-02-01T00:00:00Z"},
    ]
    path = f"/api/v1/namespaces/{KEY.namespace}/events"
    script.on("GET", path, (200, {"items": events}), (200, {"items": []}))
    assert await cluster.newest_warning(KEY.namespace, "j") == ("New", "b")
    assert script.asked[0][2]["fieldSelector"] == "involvedObject.uid=j,type=Warning"
    assert await cluster.newest_warning(KEY.namespace, "j") is None


async def test_kueue_is_asked_by_the_jobs_uid(script: Script, cluster: KubernetesCluster) -> None:
    workload = {
        "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"conditions": [{"type": "QuotaReserved", "status": "False", "message": "no"}]},
    }
    path = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{KEY.namespace}/workloads"
    script.on("GET", path, (200, {"items": [workload]}), (403, {}), (404, {}))
    assert await cluster.admission(KEY.namespace, "j") == Admission(known=True, waiting="no")
    assert script.asked[0][2]["labelSelector"] == "kueue.x-k8s.io/job-uid=j"
    assert await cluster.admission(KEY.namespace, "j") is None, "it must not be asked"
    assert await cluster.admission(KEY.namespace, "j") is None, "there is no Kueue"


async def test_what_does_not_exist_is_none(cluster: KubernetesCluster) -> None:
    answers = await asyncio.gather(
        cluster.job(KEY),
        cluster.claim("ns", "claim"),
        cluster.config_map_keys("ns", "map"),
        cluster.gpu_hours("ns", "map"),
        cluster.config_map("ns", "map"),
    )
    assert answers == [None, None, None, None, None]


async def test_claims_and_config_maps_are_cut_down_to_what_matters(
    script: Script, cluster: KubernetesCluster
) -> None:
    claim = {"spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Bound"}}
    script.on("GET", "/api/v1/namespaces/ns/persistentvolumeclaims/claim", (200, claim))
    script.on("GET", "/api/v1/namespaces/ns/configmaps/map", (200, {"data": {"a": "secret"}}))
    budget = {"data": {"gpuHours": "100", "a": "b"}}
    script.on("GET", "/api/v1/namespaces/ns/configmaps/budget", (200, budget))
    found = await cluster.claim("ns", "claim")
    assert found == Claim(("ReadWriteMany",), bound=True)
    claim["status"]["phase"] = "Pending"
    assert await cluster.claim("ns", "claim") == Claim(("ReadWriteMany",), bound=False)
    assert await cluster.config_map_keys("ns", "map") == {"a"}
    assert await cluster.config_map("ns", "map") == {"a": "secret"}
    assert await cluster.gpu_hours("ns", "map") is None
    assert await cluster.gpu_hours("ns", "budget") == "100"
