"""A pod that is asked to go has not done its work, however early it is asked."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from parity.test_whole_trainer import Pod
from unit.trainer.train.tiny import make_workspace


def test_trap_s21_a_pod_that_is_asked_to_go_before_training_exits_75(tmp_path: Path) -> None:
    pod = Pod(make_workspace(tmp_path), 0)
    try:
        deadline = time.monotonic() + 60
        while pod.logs().count("answers on port") < 2:  # from here on the ranks speak themselves
            assert pod.process.poll() is None and time.monotonic() < deadline, pod.logs()
            time.sleep(0.01)
        pod.process.send_signal(signal.SIGTERM)
        assert pod.end() == 75, pod.logs()
        assert pod.message["outcome"] == "preempted"
        assert pod.message["failure"]["class"] == "Preempted"
    finally:
        pod.process.kill()
        pod.process.wait()
