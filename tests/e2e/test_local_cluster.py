"""The local cluster itself, for real: two clusters of their own, beside whatever else runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from e2e.kubectl import Kubectl, wait_for
from e2e.local_cluster_kit import (
    RESTRICTED,
    RESTRICTED_CONTAINER,
    WEB,
    connects,
    is_ready,
    pod,
    reaches,
    service,
    wait_pod,
)

from local_cluster import LocalCluster, LocalClusterError, chaos
from local_cluster.__main__ import main
from local_cluster.cgroups import Cgroup, hierarchies
from local_cluster.mounts import mounts_below
from local_cluster.network import netns_exists, netns_name
from local_cluster.oci import upload_image
from local_cluster.processes import is_alive

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="a local cluster needs root"),
]

GPUS = 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    local = LocalCluster("test-one")
    local.down()
    local.up(nodes=3, gpus=GPUS)
    yield local
    local.down()


@pytest.fixture(scope="module")
def kube(cluster: LocalCluster) -> Kubectl:
    return Kubectl.of(cluster)


@pytest.fixture(scope="module")
def web(kube: Kubectl) -> str:
    """A web server behind a Service, on node 2."""
    kube.apply(pod("web", WEB.format(word="served"), node="test-one-n2"), service("web"))
    wait_pod(kube, "web")
    return "web"


def running(cluster: LocalCluster) -> dict[str, int]:
    found = {name: cluster.processes.identity(name) for name in cluster.running()}
    return {name: identity.pid for name, identity in found.items() if identity}


def test_a_second_up_changes_nothing(cluster: LocalCluster) -> None:
    before = running(cluster)
    start = time.monotonic()
    cluster.up()
    assert running(cluster) == before
    assert time.monotonic() - start < 10


def test_the_command_line_shows_repairs_and_refuses(
    cluster: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ("--name", cluster.name)

    def told(*words: str, code: int = 0) -> str:
        assert main([*words, *named]) == code
        seen = capsys.readouterr()
        return seen.err if code else seen.out

    assert told("kubeconfig").strip() == str(cluster.kubeconfig)
    assert told("registry").strip() == cluster.registry
    assert told("up").splitlines(), "a second one says what it does"
    status = told("status")
    assert all(node.name in status for node in cluster.nodes())
    assert "kube-apiserver" in status
    assert "There is no node 'n9'; there are test-one-n1," in told("node", "kill", "n9", code=1)
    assert "cannot shrink to 1" in told("up", "--nodes", "1", code=1)
    assert main(["kubeconfig", "--name", "nobody"]) == 1
    assert "There is no cluster 'nobody'" in capsys.readouterr().err


def test_a_cluster_refuses_to_shrink(cluster: LocalCluster) -> None:
    with pytest.raises(LocalClusterError, match="cannot shrink to 1: run `down`"):
        cluster.up(nodes=1)


def test_keys_are_for_root_alone(cluster: LocalCluster) -> None:
    keys = [*cluster.paths.root.rglob("*.key"), *cluster.paths.root.rglob("*kubeconfig")]
    assert len(keys) > 10
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    assert stat.S_IMODE(cluster.paths.root.stat().st_mode) == 0o700


def test_names_resolve_and_services_route_from_another_node(kube: Kubectl, web: str) -> None:
    script = (
        f"timeout 5 wget -qO- http://{web}.default/ && nslookup nowhere.example | grep NXDOMAIN"
    )
    kube.apply(pod("client", script, node="test-one-n3"))
    kube("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/client", "--timeout=60s")
    logs = kube("logs", "client")
    assert "served" in logs
    assert "NXDOMAIN" in logs


def test_a_service_routes_to_a_pod_of_the_same_node(kube: Kubectl, web: str) -> None:
    """Neighbours' packets must pass the service rules on the way back too."""
    kube.apply(pod("neighbour", f"timeout 5 wget -qO- http://{web}.default/", node="test-one-n2"))
    kube("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/neighbour", "--timeout=60s")
    assert "served" in kube("logs", "neighbour")


def test_exec_reaches_into_a_pod(kube: Kubectl, web: str) -> None:
    assert kube("exec", web, "--", "cat", "/tmp/www/index.html").strip() == "served"


def test_the_host_reaches_pods_and_services(kube: Kubectl, web: str) -> None:
    addresses = [
        kube.json("get", "pod", web)["status"]["podIP"] + ":8080",
        kube.json("get", "service", web)["spec"]["clusterIP"],
    ]
    for address in addresses:
        answer = subprocess.run(
            ["curl", "-s", "--noproxy", "*", "-m", "5", f"http://{address}/"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert answer.stdout.strip() == "served"


def test_nothing_leaves_the_machine(cluster: LocalCluster) -> None:
    routes = subprocess.run(
        ["ip", "-n", netns_name(cluster.name), "route", "show", "default"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert routes.stdout == ""


def test_an_image_is_mounted_as_a_volume(cluster: LocalCluster, kube: Kubectl) -> None:
    image = "localhost:5000/test-model:1"
    upload_image(cluster.registry, image, {"model/weights.gguf": b"forty-two"})
    kube.apply(
        pod(
            "image-volume",
            "cat /models/model/weights.gguf; touch /models/x 2>&1",
            volumes=[{"name": "model", "image": {"reference": image}}],
            container={"volumeMounts": [{"name": "model", "mountPath": "/models"}]},
        )
    )
    phase = "{.status.containerStatuses[0].state.terminated}"
    kube("wait", f"--for=jsonpath={phase}", "pod/image-volume", "--timeout=60s")
    logs = kube("logs", "image-volume")
    assert "forty-two" in logs
    assert "Read-only file system" in logs


def test_a_container_over_its_memory_is_oom_killed(kube: Kubectl) -> None:
    kube.apply(
        pod(
            "greedy",
            "head -c 300000000 /dev/zero | tail",
            container={"resources": {"limits": {"memory": "32Mi"}}},
        )
    )
    kube("wait", "--for=jsonpath={.status.phase}=Failed", "pod/greedy", "--timeout=60s")
    ended = kube.json("get", "pod", "greedy")["status"]["containerStatuses"][0]["state"][
        "terminated"
    ]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_gpus_are_scheduled_and_run_out(kube: Kubectl) -> None:
    for name, count in (("fits", GPUS), ("too-big", GPUS + 1)):
        limits = {"resources": {"limits": {"nvidia.com/gpu": str(count)}}}
        kube.apply(pod(name, "sleep 600", container=limits))
    wait_pod(kube, "fits")
    wait_for(
        "a reason for the pod that fits nowhere",
        lambda: "Insufficient nvidia.com/gpu" in kube("get", "pod", "too-big", "-o", "json"),
        60,
    )
    kube("delete", "pod", "fits", "too-big")


def test_restricted_pods_on_two_nodes_share_a_volume_that_is_recycled(
    cluster: LocalCluster, kube: Kubectl
) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "shared"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": "restricted",
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    kube.apply(namespace)
    mount = {
        "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": "shared"}}],
        "container": {
            **RESTRICTED_CONTAINER,
            "volumeMounts": [{"name": "work", "mountPath": "/data"}],
        },
        **RESTRICTED,
    }
    writers = [
        pod(f"writer-{k}", "echo $HOSTNAME >> /data/log; sleep 600", node=f"test-one-n{k}", **mount)
        for k in (1, 3)
    ]
    inside = [{**m, "metadata": {**m["metadata"], "namespace": "restricted"}}
              for m in (claim, *writers)]  # fmt: skip
    wait_for("the namespace's account", lambda: "created" in kube.try_to_apply(*inside).stdout, 60)
    for k in (1, 3):
        kube("-n", "restricted", "wait", "--for=condition=Ready", f"pod/writer-{k}",
             "--timeout=60s")  # fmt: skip
    volume = kube.json("get", "-n", "restricted", "pvc", "shared")["spec"]["volumeName"]
    log = cluster.paths.volumes / volume / "log"
    wait_for("both lines", lambda: log.exists() and len(log.read_text().splitlines()) == 2, 60)
    assert sorted(log.read_text().split()) == ["writer-1", "writer-3"]

    root = pod("root", "true")
    root["metadata"]["namespace"] = "restricted"
    assert 'violates PodSecurity "restricted' in kube.try_to_apply(root).stderr

    kube("delete", "namespace", "restricted", "--timeout=60s")
    wait_for(
        "the volume offered again",
        lambda: kube.json("get", "pv", volume)["status"]["phase"] == "Available",
        60,
    )
    assert list((cluster.paths.volumes / volume).iterdir()) == []


def test_every_request_is_in_the_audit_log(cluster: LocalCluster, kube: Kubectl) -> None:
    kube("create", "configmap", "audited")
    lines = [json.loads(line) for line in cluster.paths.audit_log.read_text().splitlines()]
    created = [
        line["user"]["username"]
        for line in lines
        if line["verb"] == "create" and line.get("objectRef", {}).get("name") == "audited"
    ]
    assert created == ["local-admin"]


def test_a_partitioned_node_trains_on_alone_and_comes_back(
    cluster: LocalCluster, kube: Kubectl, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    ticker = "while true; do date +%s > /data/tick; sleep 0.2; done & " + WEB
    kube.apply(
        pod(
            "island",
            ticker.format(word="served"),
            node="test-one-n2",
            volumes=[{"name": "work", "hostPath": {"path": str(tmp_path)}}],
            container={
                "volumeMounts": [{"name": "work", "mountPath": "/data"}],
                "readinessProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1},
            },
        ),
        pod("mainland", "sleep 3600", node="test-one-n1"),
    )
    wait_pod(kube, "island")
    wait_pod(kube, "mainland")
    address = kube.json("get", "pod", "island")["status"]["podIP"] + ":8080"
    assert reaches(kube, "mainland", address)

    def tick() -> str:
        return (tmp_path / "tick").read_text().strip()  # empty while it is being written

    chaos.partition(cluster, cluster.node("n2"))
    try:
        assert not reaches(kube, "mainland", address)
        wait_for("the node lost", lambda: is_ready(kube, "test-one-n2") == "Unknown", 45)
        assert time.time() - int(wait_for("a tick", tick, 5, 0.05)) < 5, "the volume stays writable"
        assert is_ready(kube, "test-one-n3") == "True", "the others do not notice"
    finally:  # what comes next needs all nodes
        chaos.heal(cluster, cluster.node("n2"))
    assert is_ready(kube, "test-one-n2") == "True"
    wait_for("traffic flows", lambda: reaches(kube, "mainland", address), 60)
    assert kube.json("get", "pod", "island")["status"]["containerStatuses"][0]["restartCount"] == 0
    kube("delete", "pod", "island")


def test_a_killed_node_is_lost_with_all_it_ran_and_comes_back(
    cluster: LocalCluster, kube: Kubectl
) -> None:
    node = cluster.node("test-one-n3")
    kube.apply(pod("doomed", WEB.format(word="served"), node=node.name))
    wait_pod(kube, "doomed")
    address = kube.json("get", "pod", "doomed")["status"]["podIP"]
    wait_for("the pod's server", lambda: connects(address, 8080), 60)
    assert node.cgroup.processes()

    chaos.kill(cluster, node)
    assert node.cgroup.processes() == set()
    assert not connects(address, 8080)
    wait_for("the node lost", lambda: is_ready(kube, node.name) == "Unknown", 45)

    chaos.heal(cluster, node)
    assert is_ready(kube, node.name) == "True"
    allocatable = kube.json("get", "node", node.name)["status"]["allocatable"]
    assert allocatable["nvidia.com/gpu"] == str(GPUS)
    kube("delete", "pod", "doomed", "--force", "--ignore-not-found")
    kube.apply(pod("after", "sleep 3600", node=node.name))
    wait_pod(kube, "after")


def test_a_node_that_does_not_exist_is_named_with_those_that_do(cluster: LocalCluster) -> None:
    with pytest.raises(LocalClusterError, match="no node 'n9'; there are test-one-n1, "):
        cluster.node("n9")


def test_up_repairs_what_a_crash_left_and_pods_live_through_it(
    cluster: LocalCluster, kube: Kubectl
) -> None:
    kube.apply(pod("survivor", "sleep 3600", node="test-one-n1"))
    wait_pod(kube, "survivor")
    victims = ["kube-apiserver", "etcd", "registry", "coredns", "containerd-n1", "kubelet-n1",
               "kubelet-n2", "kubelet-n3"]  # fmt: skip
    before = running(cluster)
    for name in victims:
        os.kill(before[name], signal.SIGKILL)

    cluster.up()
    after = running(cluster)
    assert set(after) == set(before)
    assert all(after[name] != before[name] for name in victims)
    survivor = kube.json("get", "pod", "survivor")["status"]
    assert survivor["phase"] == "Running"
    assert survivor["containerStatuses"][0]["restartCount"] == 0
    # A kubelet reports its node before it has read which pods are its own.
    wait_for(
        "a word from the survivor",
        lambda: kube.run("exec", "survivor", "--", "echo", "alive").stdout.strip() == "alive",
        30,
    )
    gpus = [
        node["status"]["allocatable"]["nvidia.com/gpu"]
        for node in kube.json("get", "nodes")["items"]
    ]
    assert gpus == [str(GPUS)] * 3


def lose_a_starting_kubelet(cluster: LocalCluster, start: Callable[[], None]) -> None:
    """Run `start` and kill the kubelet of node 2 that it starts, as soon as it is there."""
    name, before = "kubelet-n2", running(cluster)["kubelet-n2"]
    os.kill(before, signal.SIGKILL)
    killed: list[int] = []

    def kill_its_successor() -> None:
        pid = wait_for("a new kubelet", lambda: running(cluster).get(name, before) != before, 60)
        assert pid
        killed.append(running(cluster)[name])
        os.kill(killed[0], signal.SIGKILL)

    with ThreadPoolExecutor(1) as pool:
        murder = pool.submit(kill_its_successor)
        start()
        murder.result()
    assert running(cluster)[name] not in (before, *killed)


@pytest.mark.parametrize("way", ["up", "heal"])
def test_a_kubelet_that_ends_while_it_starts_is_started_again(
    cluster: LocalCluster, kube: Kubectl, way: str
) -> None:
    """As it does where another one of the host takes the socket for device plugins from it."""
    start = {"up": cluster.up, "heal": lambda: chaos.heal(cluster, cluster.node("n2"))}[way]
    lose_a_starting_kubelet(cluster, start)
    assert is_ready(kube, "test-one-n2") == "True"


def test_two_clusters_live_side_by_side_and_one_goes_without_a_trace(
    cluster: LocalCluster, kube: Kubectl, web: str
) -> None:
    other = LocalCluster("test-two")
    other.down()
    other.up(nodes=1)
    try:
        assert other.subnet.block != cluster.subnet.block
        neighbour = Kubectl.of(other)
        neighbour.apply(pod("web", WEB.format(word="other")), service("web"))
        wait_pod(neighbour, "web")
        identities = [other.processes.identity(name) for name in other.processes.names()]
        link, number = other.subnet.link, socket.if_nametoindex(other.subnet.link)
    finally:
        other.down()

    assert not any(identity and is_alive(identity) for identity in identities)
    assert not other.paths.root.exists()
    assert not other.paths.volatile.exists()
    assert mounts_below(other.paths.root) + mounts_below(other.paths.volatile) == []
    assert not netns_exists(netns_name(other.name))
    # Its subnet is free again, and a cluster that starts now may have a link of that name.
    assert (number, link) not in socket.if_nameindex()
    group = Cgroup.of_cluster(other.name)
    assert not any((root / group.path).exists() for root in hierarchies()[0])

    client = "still-routes"
    kube.apply(pod(client, f"timeout 5 wget -qO- http://{web}.default/", node="test-one-n3"))
    kube("wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{client}", "--timeout=60s")
    assert "served" in kube("logs", client)
    cluster.up()
