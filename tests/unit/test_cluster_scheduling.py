"""How the tests of this project are dealt out to the processes of a run."""

from __future__ import annotations

from pathlib import Path

import cluster_scheduling
import pytest


def test_a_process_that_ends_costs_its_test_and_not_the_run(pytester: pytest.Pytester) -> None:
    """As xdist has it the run would never end."""
    (pytester.path / "dealing.py").write_text(Path(cluster_scheduling.__file__).read_text())
    pytester.makeconftest(
        "from dealing import OneForEachCluster\n"
        "def pytest_xdist_make_scheduler(config, log):\n"
        "    return OneForEachCluster(config, log)\n"
    )
    done = "def test_done(): pass\n"
    pytester.makepyfile(
        test_a=done,
        test_b=done,
        test_c=f"import os\n{done}def test_ends(): os._exit(1)\ndef test_after(): pass\n",
        test_d=done,
    )
    result = pytester.runpytest_subprocess(
        *("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-p", "no:cacheprovider"),
        timeout=30,
    )
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["*crashed while running 'test_c.py::test_ends'*"])
