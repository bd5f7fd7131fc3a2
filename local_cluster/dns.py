"""CoreDNS as a plain process on the control plane's address."""

from __future__ import annotations

import socket
import struct

from local_cluster.binaries import Binaries
from local_cluster.control_plane import ControlPlane
from local_cluster.layout import ClusterPaths, write_private
from local_cluster.processes import ProcessTable

_RULES = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "local-cluster:coredns"},
    "rules": [
        {
            "apiGroups": [""],
            "resources": ["services", "pods", "namespaces"],
            "verbs": ["list", "watch"],
        },
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        },
    ],
}
_BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "local-cluster:coredns"},
    "roleRef": {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": "local-cluster:coredns",
    },
    "subjects": [{"kind": "User", "name": "coredns", "apiGroup": "rbac.authorization.k8s.io"}],
}

# The root zone beside cluster.local: without a way out every other name is known not to exist,
# and saying so at once spares programs their time-outs. Answers live 5 s and are not cached, so
# that a pod's name is there as soon as its endpoint is.
_COREFILE = """\
.:53 {
    errors
    ready 127.0.0.1:8181
    kubernetes cluster.local in-addr.arpa . {
        kubeconfig %s
        pods insecure
        ttl 5
    }
}
"""


def start_dns(
    paths: ClusterPaths,
    plane: ControlPlane,
    processes: ProcessTable,
    binaries: Binaries,
    netns: str,
) -> None:
    """Grant CoreDNS its reading rights and start it."""
    roles = "/apis/rbac.authorization.k8s.io/v1"
    plane.api.apply(f"{roles}/clusterroles/local-cluster:coredns", _RULES)
    plane.api.apply(f"{roles}/clusterrolebindings/local-cluster:coredns", _BINDING)
    corefile = write_private(
        paths.etc / "Corefile", _COREFILE % plane.component("coredns", "coredns")
    )
    processes.start("coredns", [binaries.path("coredns"), "-conf", corefile], netns=netns)


def resolve(server: str, name: str, timeout: float = 1.0) -> str | None:
    """Ask one DNS server for the IPv4 address of a name; None when it gives no answer."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    query = struct.pack(">6H", 0x4642, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(timeout)
        try:
            udp.sendto(query, (server, 53))
            answer = udp.recv(512)
        except OSError:
            return None
    answers = struct.unpack(">H", answer[6:8])[0]
    # With one question and one A record the address is the last thing in the message.
    return socket.inet_ntoa(answer[-4:]) if answers == 1 else None
