"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler inside the cluster's network.

Where a flag departs from upstream's default, the reason stands beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from local_cluster.api import API_PORT, Api, kubeconfig, wait_for
from local_cluster.binaries import Binaries
from local_cluster.layout import ClusterPaths, private_dir, write_private
from local_cluster.pki import Authority, KeyPair, signing_keys
from local_cluster.processes import ProcessTable
from local_cluster.subnets import Subnet

_ETCD = "http://127.0.0.1:2379"
_ETCD_PEER = "http://127.0.0.1:2380"

_AUDITED_WHOLE = {
    "level": "RequestResponse",
    "omitManagedFields": True,
    "verbs": ["create", "update", "patch", "delete"],
    "resources": [
        {"group": "finetune.dev", "resources": ["finetunejobs", "finetunejobs/status"]},
        {"group": "batch", "resources": ["jobs", "jobs/status"]},
        {"group": "", "resources": ["pods", "pods/status", "services", "configmaps"]},
    ],
}
"""Writes whose objects stand in the audit log, where that is asked for."""


def audit_policy(*, objects: bool) -> dict[str, Any]:
    """One line a request: the one at its end. objects: those of jobs and pods, too."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [*([_AUDITED_WHOLE] if objects else []), {"level": "Metadata"}],
    }


@dataclass(frozen=True)
class Identities:
    """Who may do what: the authorities and the certificates that all nodes share."""

    authority: Authority
    front_proxy: Authority
    admin: KeyPair


class ControlPlane:
    """The four programs, their certificates and their configuration."""

    def __init__(
        self,
        paths: ClusterPaths,
        subnet: Subnet,
        processes: ProcessTable,
        binaries: Binaries,
        netns: str,
        audit_objects: bool = False,
    ) -> None:
        self._paths = paths
        self._audit_objects = audit_objects
        self._subnet = subnet
        self._processes = processes
        self._binaries = binaries
        self._netns = netns
        self.identities = self._identities()
        self.api = Api(subnet.door, self.identities.authority.pair, self.identities.admin)

    def start(self, nodes: int) -> None:
        """Start what does not run and wait until the API server is ready (about 8 s)."""
        self._write_admin_kubeconfig()
        self._start_etcd()
        self._start_api_server(nodes)
        self._await_ready()
        self._start_controller_manager()
        self._start_scheduler()

    def write_kubeconfig(self, component: str, server: str, client: KeyPair) -> str:
        """Write the kubeconfig of a component that runs inside; its path."""
        path = self._paths.etc / f"{component}.kubeconfig"
        config = kubeconfig(server, self.identities.authority.pair, client, component)
        return str(write_private(path, json.dumps(config)))

    @property
    def inside_server(self) -> str:
        """The API server as components on the control plane's address see it."""
        return f"https://{self._subnet.control_plane}:{API_PORT}"

    def component(self, name: str, user: str, group: str = "") -> str:
        """Issue a client certificate for `user` and write a kubeconfig with it; its path."""
        pair = self.identities.authority.issue(name, user, organization=group)
        return self.write_kubeconfig(name, self.inside_server, pair)

    def _identities(self) -> Identities:
        pki = private_dir(self._paths.pki)
        authority = Authority(pki)
        return Identities(
            authority=authority,
            front_proxy=Authority(pki / "front-proxy", "front-proxy-ca"),
            admin=authority.issue("admin", "local-admin", organization="system:masters"),
        )

    def _write_admin_kubeconfig(self) -> None:
        config = kubeconfig(
            f"https://{self._subnet.door}:{API_PORT}",
            self.identities.authority.pair,
            self.identities.admin,
            f"local-{self._paths.name}",
        )
        write_private(self._paths.kubeconfig, json.dumps(config, indent=1))

    def _start_etcd(self) -> None:
        private_dir(self._paths.etcd)
        self._processes.start(
            "etcd",
            [
                self._binaries.path("etcd"),
                f"--data-dir={self._paths.etcd}",
                f"--listen-client-urls={_ETCD}",
                f"--advertise-client-urls={_ETCD}",
                f"--listen-peer-urls={_ETCD_PEER}",
                f"--initial-advertise-peer-urls={_ETCD_PEER}",
                f"--initial-cluster=default={_ETCD_PEER}",
                # A crash of the programs loses nothing; only a power cut would.
                "--unsafe-no-fsync",
                "--log-level=warn",
                "--quota-backend-bytes=4294967296",
            ],
            netns=self._netns,
        )

    def _start_api_server(self, nodes: int) -> None:
        subnet, pki = self._subnet, self._paths.pki
        authority = self.identities.authority
        server = authority.issue(
            "apiserver",
            "kube-apiserver",
            hosts=[
                "127.0.0.1",
                subnet.control_plane,
                subnet.door,
                subnet.first_service,
                # Each kubelet calls the server at its own node's address: see chaos.py.
                *(subnet.node(k) for k in range(1, max(nodes, 16) + 1)),
                "localhost",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
            ],
        )
        kubelet_client = authority.issue(
            "apiserver-kubelet-client", "kube-apiserver", organization="system:masters"
        )
        front_proxy = self.identities.front_proxy
        front_proxy_client = front_proxy.issue("front-proxy-client", "front-proxy-client")
        tokens = signing_keys(pki)
        audited = json.dumps(audit_policy(objects=self._audit_objects))
        policy = write_private(self._paths.etc / "audit-policy.json", audited)
        self._processes.start(
            "kube-apiserver",
            [
                self._binaries.path("kube-apiserver"),
                f"--etcd-servers={_ETCD}",
                # All addresses of the namespace: the control plane's, the nodes' and the door.
                "--bind-address=0.0.0.0",
                f"--advertise-address={subnet.control_plane}",
                f"--secure-port={API_PORT}",
                f"--tls-cert-file={server.certificate}",
                f"--tls-private-key-file={server.key}",
                f"--client-ca-file={authority.pair.certificate}",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                f"--service-cluster-ip-range={subnet.services}",
                "--allow-privileged=true",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                f"--service-account-key-file={tokens.certificate}",
                f"--service-account-signing-key-file={tokens.key}",
                f"--kubelet-client-certificate={kubelet_client.certificate}",
                f"--kubelet-client-key={kubelet_client.key}",
                "--kubelet-preferred-address-types=InternalIP",
                f"--requestheader-client-ca-file={front_proxy.pair.certificate}",
                "--requestheader-allowed-names=front-proxy-client",
                "--requestheader-extra-headers-prefix=X-Remote-Extra-",
                "--requestheader-group-headers=X-Remote-Group",
                "--requestheader-username-headers=X-Remote-User",
                f"--proxy-client-cert-file={front_proxy_client.certificate}",
                f"--proxy-client-key-file={front_proxy_client.key}",
                f"--audit-policy-file={policy}",
                f"--audit-log-path={self._paths.audit_log}",
                # One file that is never rotated: tests count the writes in it.
                "--audit-log-maxsize=100000",
                # Node loss shows in half a minute instead of five: this cluster is for trying.
                "--default-not-ready-toleration-seconds=30",
                "--default-unreachable-toleration-seconds=30",
                "--profiling=false",
            ],
            netns=self._netns,
        )

    def _await_ready(self) -> None:
        def ready() -> bool:
            for name in ("etcd", "kube-apiserver"):
                if self._processes.identity(name) is None:
                    raise self._processes.died(name)
            return self.api.ready()

        log = self._processes.log("kube-apiserver")
        wait_for("The API server is not ready", ready, 90, f"see {log}.")

    def _start_controller_manager(self) -> None:
        config = self.component("kube-controller-manager", "system:kube-controller-manager")
        authority = self.identities.authority.pair
        self._processes.start(
            "kube-controller-manager",
            [
                self._binaries.path("kube-controller-manager"),
                f"--kubeconfig={config}",
                f"--authentication-kubeconfig={config}",
                f"--authorization-kubeconfig={config}",
                f"--service-account-private-key-file={signing_keys(self._paths.pki).key}",
                f"--root-ca-file={authority.certificate}",
                f"--cluster-signing-cert-file={authority.certificate}",
                f"--cluster-signing-key-file={authority.key}",
                "--use-service-account-credentials=true",
                # Nodes' pod ranges are fixed by their numbers, and no cloud is here.
                "--controllers=*,-node-ipam-controller,-node-route-controller,"
                "-cloud-node-lifecycle-controller,-service-lb-controller",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                # Upstream's 20 requests a second, meant for clusters of thousands, would be
                # the limit of every test with a few hundred jobs.
                "--kube-api-qps=200",
                "--kube-api-burst=400",
                "--concurrent-job-syncs=10",
                # A lost node shows in 20 s instead of 50; the lease is renewed every 2.5 s.
                "--node-monitor-grace-period=20s",
                "--node-monitor-period=2s",
                "--profiling=false",
            ],
            netns=self._netns,
        )

    def _start_scheduler(self) -> None:
        config = write_private(
            self._paths.etc / "scheduler.json",
            json.dumps(
                {
                    "apiVersion": "kubescheduler.config.k8s.io/v1",
                    "kind": "KubeSchedulerConfiguration",
                    "leaderElection": {"leaderElect": False},
                    "clientConnection": {
                        "kubeconfig": self.component("kube-scheduler", "system:kube-scheduler"),
                        "qps": 200,
                        "burst": 400,
                    },
                }
            ),
        )
        own = self._paths.etc / "kube-scheduler.kubeconfig"
        self._processes.start(
            "kube-scheduler",
            [
                self._binaries.path("kube-scheduler"),
                f"--config={config}",
                f"--authentication-kubeconfig={own}",
                f"--authorization-kubeconfig={own}",
                "--bind-address=127.0.0.1",
                "--profiling=false",
            ],
            netns=self._netns,
        )
