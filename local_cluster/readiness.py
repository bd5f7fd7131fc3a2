"""When nodes are Ready, and what to do about a kubelet that ends before.

All kubelets of a host share one socket for device plugins, at a fixed path. Of two that take it in
the same moment, one ends; it just starts again.
"""

from __future__ import annotations

from collections.abc import Sequence

from local_cluster.api import wait_for
from local_cluster.binaries import Report, silent
from local_cluster.nodes import Node
from local_cluster.processes import ProcessTable

KUBELET_RESTARTS = 3
"""How often a kubelet is started again that ended before its node was Ready."""


def await_ready(
    nodes: Sequence[Node], processes: ProcessTable, seconds: float = 90, report: Report = silent
) -> None:
    """Return when every node is Ready.

    Raises `LocalClusterError` after `seconds`, or with the last words of a kubelet that ended more
    than KUBELET_RESTARTS times.
    """
    left = {node.name: node for node in nodes}
    restarts = dict.fromkeys(left, 0)

    def all_ready() -> bool:
        for node in list(left.values()):
            if processes.identity(node.kubelet) is None:
                if restarts[node.name] == KUBELET_RESTARTS:
                    raise processes.died(node.kubelet)
                restarts[node.name] += 1
                node.start()
            elif node.ready():
                del left[node.name]
                report("nodes", f"{node.name} is Ready")
        return not left

    what = "Not every node is Ready" if len(nodes) > 1 else f"Node {nodes[0].name} is not Ready"
    logs = ", ".join(str(processes.log(node.kubelet)) for node in nodes)
    wait_for(what, all_ready, seconds, f"see {logs}.", 0.2)
