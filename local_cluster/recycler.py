"""Empties volumes whose claim was deleted and offers them again, as a provisioner would.

Without it a cluster runs out of its pre-made volumes after as many claims. Runs as one of the
cluster's processes: `python -m local_cluster.recycler NAME`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from local_cluster.api import ApiError
from local_cluster.processes import ProcessTable

PERIOD = 2.0  # seconds

PROCESS = "recycler"


def start_recycler(cluster: str, processes: ProcessTable) -> None:
    """Start the loop as a process of the cluster."""
    package = Path(__file__).parent.parent
    processes.start(
        PROCESS,
        [sys.executable, "-m", "local_cluster.recycler", cluster],
        environment={"PYTHONPATH": str(package)},
    )


def main(cluster: str) -> None:
    """Look every two seconds, for as long as the cluster lives."""
    from local_cluster.cluster import LocalCluster
    from local_cluster.storage import recycle_volumes

    local = LocalCluster(cluster)
    api = local.control_plane().api
    while local.exists():
        time.sleep(PERIOD)
        try:
            for name in recycle_volumes(api, local.paths):
                print(f"recycled {name}", flush=True)
        except (OSError, ApiError) as error:
            # The API server may be away for a while, or have changed the volume under us.
            print(error, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
