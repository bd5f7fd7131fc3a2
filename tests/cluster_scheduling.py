"""Which process of the test run gets which tests (``--dist loadfile``)."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

ON_A_CLUSTER = ("tests/e2e/", "tests/faults/")
ON_THE_SECOND_CLUSTER = (
    "tests/e2e/test_bad_numbers.py",
    "tests/e2e/test_elastic.py",
    "tests/e2e/test_goodput.py",
    "tests/e2e/test_helm.py",
    "tests/e2e/test_images.py",
    "tests/e2e/test_kueue.py",
    "tests/e2e/test_local_cluster",
    "tests/e2e/test_lost_nodes",
    "tests/faults/",
)
"""Those that take a cluster apart, and some more: about half of the time of all ON_A_CLUSTER."""


def scope_of(nodeid: str) -> str:
    """Tests of one scope run in one process, one after the other."""
    if not nodeid.startswith(ON_A_CLUSTER):
        return "no cluster"
    return "cluster 2" if nodeid.startswith(ON_THE_SECOND_CLUSTER) else "cluster 1"


class OneForEachCluster(LoadFileScheduling):
    """The tests that use a cluster mostly wait: a process for each cluster, others for the rest.

    xdist deals the first scopes out in the order of the tests: the first two processes get them.
    """

    def _split_scope(self, nodeid: str) -> str:
        scope = scope_of(nodeid)
        return super()._split_scope(nodeid) if scope == "no cluster" else scope

    def remove_node(self, node: WorkerController) -> str | None:
        """A process has ended: others do what it had not done, and not the test that ended it.

        xdist 3.8.0 deals out again what is done, too, and then waits for it (its issue 1378).
        """
        work = self.assigned_work.pop(node)
        open_tests = [
            (unit, test) for unit in work.values() for test, done in unit.items() if not done
        ]
        if not open_tests:
            return None
        unit, crashed = open_tests[0]
        unit[crashed] = True
        self.workqueue.update(
            {scope: each for scope, each in work.items() if not all(each.values())}
        )
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed
