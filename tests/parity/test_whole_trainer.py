"""The whole trainer on this host: the launcher, two real ranks, a prepared folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from unit.trainer.train.gangs import free_port, free_ports
from unit.trainer.train.tiny import make_workspace

from finetune_trainer.heartbeat import read_all

STEPS = 150


class Pod:
    """One training pod: PID 1 and what it leaves behind."""

    def __init__(self, workspace: Path, attempt: int) -> None:
        self.workspace = workspace
        self.folder = workspace / "attempts" / str(attempt)
        self.port = free_ports(2)
        self.termination_log = workspace / f"termination-log-{attempt}"
        self.began, self.began_at = time.monotonic(), time.time()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer", "train"],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "OMP_NUM_THREADS": "1",
                "FINETUNE_RUN_JSON": str(workspace / "run.json"),
                "FINETUNE_WORKSPACE": str(workspace),
                "FINETUNE_TERMINATION_LOG": str(self.termination_log),
                "FINETUNE_METRICS_PORT": str(self.port),
                "FINETUNE_ATTEMPT": str(attempt),
                "JOB_COMPLETION_INDEX": "0",
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(free_port()),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def get(self, path: str) -> bytes:
        """Answer of rank 0, as soon as there is one."""
        deadline = time.monotonic() + 60
        while True:
            try:
                url = f"http://localhost:{self.port}{path}"
                with urllib.request.urlopen(url, timeout=5) as answer:
                    body: bytes = answer.read()
                    return body
            except OSError:
                assert self.process.poll() is None, self.logs()
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def progress(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.get("/progress"))
        return content

    def wait_for_step(self, step: int) -> dict[str, Any]:
        deadline = time.monotonic() + 180
        while True:
            told = self.progress()
            if told.get("step", 0) >= step:
                return told
            assert time.monotonic() < deadline, told
            time.sleep(0.02)

    def wait_for_beat(self, rank: int, step: int) -> None:
        """Wait until the rank's heartbeat, which is up to a second old, tells of the step."""
        deadline = time.monotonic() + 180
        while True:
            beats = {beat["rank"]: beat for beat in read_all(self.folder / "heartbeats", rank + 1)}
            if beats.get(rank, {}).get("step", 0) >= step:
                return
            assert time.monotonic() < deadline, beats
            time.sleep(0.02)

    def end(self) -> int:
        return self.process.wait(timeout=240)

    @property
    def message(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.termination_log.read_bytes())
        return content

    def rank_pid(self, rank: int) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for pid in map(int, children.split()):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if b"RANK=%d" % rank in environment:
                return pid
        raise AssertionError(f"no rank {rank} among {children}")

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("logs/*.log")))


Start = Callable[..., Pod]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(
        tmp_path_factory.mktemp("job") / "workspace",
        training={"steps": STEPS, "microBatchSize": 1, "accumulation": 2, "learningRate": 0.003},
        evaluation={"everySteps": 50},
        checkpoint={"everySteps": 40},
    )


@pytest.fixture
def start(prepared: Path, tmp_path: Path) -> Iterator[Start]:
    shutil.copytree(prepared, tmp_path / "workspace")
    pods: list[Pod] = []

    def start(attempt: int = 0) -> Pod:
        pods.append(Pod(tmp_path / "workspace", attempt))
        return pods[-1]

    yield start
    for pod in pods:
        pod.process.kill()
        pod.process.wait()


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    workspace = tmp_path_factory.mktemp("undisturbed") / "workspace"
    shutil.copytree(prepared, workspace)
    pod = Pod(workspace, 0)
    pod.health_after = (pod.get("/healthz"), time.monotonic() - pod.began)[1]  # type: ignore[attr-defined]
    pod.seen = pod.wait_for_step(60)  # type: ignore[attr-defined]
    pod.scraped = pod.get("/metrics").decode()  # type: ignore[attr-defined]
    pod.code = pod.end()  # type: ignore[attr-defined]
    yield pod
    pod.process.kill()


def test_an_undisturbed_job_succeeds_and_leaves_everything_it_promised(undisturbed: Any) -> None:
    assert undisturbed.code == 0, undisturbed.logs()
    message = undisturbed.message
    assert (message["outcome"], message["step"], message["steps"]) == ("succeeded", STEPS, STEPS)
    assert message["metrics"]["evalLoss"] < message["metrics"]["baseline"]["evalLoss"]
    assert message["resumedFrom"] == {"step": 0}
    account = message["account"]
    kinds = {"init", "load", "train", "evaluate", "checkpoint", "save"}
    assert (account["doing"], account["seconds"].keys()) == ("done", kinds)
    passed = account["at"] - undisturbed.began_at
    assert passed - 10 < sum(account["seconds"].values()) < passed
    assert [entry["step"] for entry in message["checkpoints"]] == [80, 120]
    folder = undisturbed.folder
    assert json.loads((folder / "result.json").read_text()) == message
    assert json.loads((folder / "parent.json").read_text()) == {"attempt": None}
    assert (folder / "adapter" / "adapter_model.safetensors").stat().st_size > 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines if "evalLoss" in line] == [0, 50, 100, 150]
    for rank in range(2):
        beat = json.loads((folder / f"heartbeats/rank-{rank}.json").read_text())
        assert (beat["phase"], beat["step"]) == ("done", STEPS)
        assert (folder / f"logs/rank-{rank}.log").stat().st_size > 0


def test_4_bit_weights_are_refused_where_there_is_no_gpu(start: Start, tmp_path: Path) -> None:
    """The API server refuses such a job; here a pod has lost its GPUs, or they are advertised."""
    told = tmp_path / "workspace" / "run.json"
    config = json.loads(told.read_text())
    config["method"]["lora"]["quantization"] = "NF4"
    told.write_text(json.dumps(config))
    pod = start()
    assert pod.end() == 64, pod.logs()
    failure = pod.message["failure"]
    assert failure["class"] == "ConfigInvalid"
    said = "spec.method.lora.quantization: 4-bit weights need a GPU"
    assert failure["message"].startswith(said) and "gpusPerWorker" in failure["hint"]


def test_probes_progress_and_metrics_answer_while_it_runs(undisturbed: Any) -> None:
    seen = undisturbed.seen
    assert seen["phase"] in ("train", "eval", "checkpoint")
    assert seen["steps"] == STEPS
    assert seen["resumedFrom"] == {"step": 0}
    assert [entry["rank"] for entry in seen["ranks"]] == [0, 1]
    assert {"loss", "learningRate", "gradNorm", "evalLoss", "baseline"} <= seen["metrics"].keys()
    assert seen["tokensPerSecond"] > 0
    assert "finetune_train_loss " in undisturbed.scraped
    assert f"finetune_train_steps_planned {STEPS}.0" in undisturbed.scraped


def test_trap_s21_sigterm_saves_exits_75_and_the_next_attempt_is_bit_equal(
    start: Start, undisturbed: Any
) -> None:
    first = start(0)
    first.wait_for_step(30)
    first.process.send_signal(signal.SIGTERM)
    assert first.end() == 75, first.logs()
    assert first.message["outcome"] == "preempted"
    assert first.message["failure"]["class"] == "Preempted"
    stopped_at = first.message["failure"]["step"]
    assert 30 <= stopped_at < STEPS

    second = start(1)
    assert second.end() == 0, second.logs()
    parent = json.loads((second.folder / "parent.json").read_text())
    assert (parent["attempt"], parent["step"]) == (0, stopped_at)
    adapter = "adapter/adapter_model.safetensors"
    assert (second.folder / adapter).read_bytes() == (undisturbed.folder / adapter).read_bytes()
    assert second.message["metrics"] == undisturbed.message["metrics"]
    assert second.message["tokens"] == undisturbed.message["tokens"]


def test_a_killed_rank_ends_the_pod_at_once_with_its_code_and_name(start: Start) -> None:
    pod = start()
    pod.wait_for_beat(rank=1, step=1)
    os.kill(pod.rank_pid(1), signal.SIGKILL)
    began = time.monotonic()
    assert pod.end() == 137
    assert time.monotonic() - began < 5
    failure = pod.message["failure"]
    assert (failure["rank"], failure["localRank"], failure["exitCode"]) == (1, 1, 137)
    assert failure["step"] > 0  # from its last heartbeat
    assert "SIGKILL" in failure["message"]


def test_after_a_killed_rank_the_next_attempt_goes_on_from_the_checkpoint_bit_for_bit(
    start: Start, undisturbed: Any
) -> None:
    first = start(0)
    first.wait_for_step(60)
    os.kill(first.rank_pid(1), signal.SIGKILL)
    assert first.end() == 137, first.logs()
    told = map(json.loads, (first.folder / "metrics.jsonl").read_text().splitlines())
    reached = max(line["step"] for line in told if "loss" in line)

    second = start(1)
    assert second.end() == 0, second.logs()
    began = second.message["resumedFrom"]
    assert began["attempt"] == 0 and began["step"] % 40 == 0
    assert 0 <= reached - began["step"] <= 2 * 40, "an interval, and one in which it was written"
    adapter = "adapter/adapter_model.safetensors"
    assert (second.folder / adapter).read_bytes() == (undisturbed.folder / adapter).read_bytes()
    assert second.message["metrics"] == undisturbed.message["metrics"]

    spent = second.message["account"]["seconds"]
    assert (spent.get("recompute", 0) > 0) == (reached > began["step"])
    redone = [json.loads(line) for line in (second.folder / "metrics.jsonl").open()]
    steps = sum(line["seconds"] for line in redone if "loss" in line and line["step"] <= reached)
    assert spent.get("recompute", 0) >= steps and spent["train"] > 0
    assert first.message["account"]["seconds"]["train"] > 0, "told by the rank that was left"


def test_sigterm_to_survivors_of_a_silent_peer_means_74(start: Start) -> None:
    """Rank 1 hangs (SIGSTOP): nobody may wait for it."""
    pod = start()
    pod.wait_for_step(20)
    stopped = pod.rank_pid(1)
    os.kill(stopped, signal.SIGSTOP)
    time.sleep(0.5)
    began = time.monotonic()
    pod.process.send_signal(signal.SIGTERM)
    code = pod.end()
    assert code == 74, pod.logs()
    assert time.monotonic() - began < 15
    assert "rank 1 did not answer" in pod.message["failure"]["message"]
