"""Agreeing on a stop, in processes of their own because signals belong to processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

RANK = """
import os, sys, threading, time
from finetune_trainer import shutdown
from finetune_trainer.failures import BY_NAME

shutdown.block_signal()
shutdown.AGREE_SECONDS = 1.0

class Store:
    def __init__(self): self.keys, self.fail = set(), False
    def set(self, key, value): self.keys.add(key)
    def check(self, keys):
        if self.fail: raise RuntimeError("connection reset by peer")
        return set(keys) <= self.keys

def leave(error):
    print(type(error).__name__, error, flush=True)
    os._exit(error.failure.exit_code)

store = Store()
watch = shutdown.Shutdown(leave)
{arrange}
print("ready", flush=True)
threading.Event().wait({busy})  # the training thread is inside a collective
print("agreed" if watch.agreed else "not agreed", flush=True)
os._exit(0 if watch.agreed else 1)
"""


def start(arrange: str, *, busy: float = 3.0) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", RANK.format(arrange=arrange, busy=busy)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_before_training_sigterm_ends_the_rank_with_75() -> None:
    process = start("pass", busy=20)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=5)
    assert process.returncode == 75
    assert out.startswith("Preempted")


def test_with_every_peer_answering_the_stop_is_agreed_while_the_main_thread_is_stuck() -> None:
    process = start("watch.arm(store, 0, 2); store.keys.add('stop/1')", busy=1.5)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=10)
    assert (process.returncode, out.splitlines()[-1]) == (0, "agreed")


def test_a_rank_without_the_signal_learns_of_the_stop_from_the_store() -> None:
    process = start("watch.arm(store, 1, 2); store.keys |= {'stop', 'stop/0'}", busy=1.5)
    out, _ = process.communicate(timeout=10)
    assert (process.returncode, out.splitlines()[-1]) == (0, "agreed")


def test_its_own_sigterm_after_the_news_from_the_store_does_not_cost_the_checkpoint() -> None:
    """Pods of a gang are told one after the other; the news travels faster."""
    process = start("watch.arm(store, 1, 2); store.keys |= {'stop', 'stop/0'}", busy=2.5)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=10)
    assert (process.returncode, out.splitlines()[-1]) == (0, "agreed")


@pytest.mark.parametrize(
    ("arrange", "words"),
    [
        ("watch.arm(store, 0, 3); store.keys.add('stop/2')", "rank 1 did not answer"),
        ("watch.arm(store, 1, 2); store.fail = True", "rank 0 is gone"),
    ],
)
def test_with_a_peer_missing_sigterm_means_74_within_the_limit(arrange: str, words: str) -> None:
    process = start(arrange, busy=30)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=10)
    assert time.monotonic() - began < 5
    assert process.returncode == 74
    assert words in out


def test_a_second_sigterm_does_not_wait_for_the_checkpoint() -> None:
    process = start("watch.arm(store, 0, 1)", busy=30)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=5)
    assert process.returncode == 75
    assert "second time" in out


def test_after_training_sigterm_is_ignored() -> None:
    process = start("watch.arm(store, 0, 2); watch.disarm()", busy=1.0)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 0
