"""The trainer image in gangs of the real cluster: ranks and operators are killed, pods evicted.

Nodes only advertise their GPUs, so the chart's ``trainer.env`` makes the ranks train on the CPU.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from e2e.host import processes_of
from e2e.jobs import GRACE_SECONDS, Jobs, conditions, evict
from e2e.kubectl import Kubectl, wait_for
from e2e.place import OperatorProcess, chat_row, host_folder, own_operator
from e2e.s3 import start_s3
from gguf_judge import llama_cpp
from tiny_models import save_tiny_model

from local_cluster import LocalCluster

if TYPE_CHECKING:
    from e2e.fixtures import Images

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

RELEASE = "real"
KILLS = {"Preparing": 3, "Training": 4, "Exporting": 3}
"""How often the operator is killed in each phase of a job."""
OVER_SECONDS = 10.0
"""From the death of a rank to the end of its gang."""
WORK_SECONDS = 600.0
"""For what loads torch and trains, also on a host with other work."""
IN_FLIGHT = 3
"""Steps while a checkpoint of the tiny model is written beside them, with some to spare."""
ONE_CPU = {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}
"""Four ranks share the machine: each computes with one thread, as its limit says."""
ROWS = 40
DATA = {"train": [{"name": "rows", "uri": "pvc://work/rows.jsonl"}], "sequenceLength": 64}


@pytest.fixture(scope="module")
def place(kubectl: Kubectl, images: Images, shared_operator_asleep: None) -> Iterator[str]:
    with own_operator(
        kubectl, RELEASE, "real-trainer", images.operator, images.trainer,
        "trainer.env.FINETUNE_DEVICE=CPU",
    ) as namespace:  # fmt: skip
        yield namespace


@pytest.fixture(scope="module")
def files(cluster: LocalCluster, kubectl: Kubectl, place: str) -> Path:
    """The claim ``work`` on this host, with a tiny model and rows for it."""
    folder = host_folder(cluster, kubectl, place, "work")
    save_tiny_model(folder / "model")
    rows = [chat_row(f"What is gang {n}?", "A set of pods. " * (1 + n % 4)) for n in range(ROWS)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def jobs(kubectl: Kubectl, files: Path, place: str) -> Jobs:
    return Jobs(kubectl, place)


@pytest.fixture
def attempts(kubectl: Kubectl, files: Path, place: str) -> Any:
    """The folder of a job's attempts on this host."""

    def folder(name: str) -> Path:
        uid = kubectl.json("get", "ftj", name, namespace=place)["metadata"]["uid"]
        return files / place / uid / "attempts"

    return folder


def step_of(attempt: Path, rank: int) -> int:
    """The last step that a rank has told."""
    try:
        return int(json.loads((attempt / f"heartbeats/rank-{rank}.json").read_text())["step"])
    except FileNotFoundError:
        return 0


def test_a_killed_rank_on_advertised_gpus_is_named_and_its_gang_is_over_at_once(
    jobs: Jobs, kubectl: Kubectl, attempts: Any, place: str
) -> None:
    gang = {"count": 2, "gpusPerWorker": 2, "terminationGracePeriodSeconds": 300}
    jobs.apply(
        "shot",
        steps=100_000,
        data=DATA,
        workers=gang,
        deepspeed={"offloadOptimizer": "CPU", "offloadParameters": "CPU"},
        recovery={"maxRestarts": 0},
    )
    status = jobs.wait_phase("shot", "Training", "Failed")
    assert status["phase"] == "Training", status.get("failure")
    resolved = status["resolved"]
    assert (resolved["worldSize"], resolved["zeroStage"]) == (4, 3)
    assert (resolved["offloadOptimizer"], resolved["offloadParameters"]) == ("CPU", "CPU")
    wait_for("steps", lambda: step_of(attempts("shot") / "0", 3) >= 3)

    stage = "finetune.dev/job=shot,finetune.dev/stage=train"
    found = kubectl.json("get", "pods", "-l", stage, namespace=place)["items"]
    assert len({pod["spec"]["nodeName"] for pod in found}) == 2, "each pod takes a node's GPUs"
    victim = next(pod for pod in found if pod["metadata"]["name"].startswith("shot-a0-1-"))
    assert victim["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    inside = list(processes_of({victim["metadata"]["uid"]}))
    ranks = {rank: [p.pid for p in inside if b"RANK=%d" % rank in p.environment] for rank in (2, 3)}
    assert [len(pids) for pids in ranks.values()] == [1, 1], inside
    os.kill(ranks[3][0], signal.SIGKILL)
    died = time.monotonic()

    def job_failed() -> bool:
        job = kubectl.json("get", "job", "shot-a0", namespace=place)
        return conditions(job["status"]).get("Failed", {}).get("status") == "True"

    wait_for("the Kubernetes Job Failed", job_failed, 60, every=0.2)
    assert time.monotonic() - died <= OVER_SECONDS
    status = jobs.wait_phase("shot", "Failed", seconds=30)
    failure = status["failure"]
    assert (failure["stage"], failure["attempt"], failure["rank"]) == ("train", 0, 3)
    assert failure["pod"] == victim["metadata"]["name"]
    assert failure["node"] == victim["spec"]["nodeName"]
    assert failure["exitCode"] == 137 and failure["step"] >= 3
    assert "SIGKILL" in failure["message"]
    told = conditions(status)
    assert told["Failed"]["status"] == told["Stalled"]["status"] == "True"
    place_of_death = f"rank 3, pod {failure['pod']}, node {failure['node']}, exit code 137"
    assert place_of_death in told["Failed"]["message"]
    log = (attempts("shot") / "0/logs/rank-3.log").read_text()
    assert f"pod {failure['pod']}, node {failure['node']}" in log
    assert "in host memory: optimizer, parameters" in log
    left = processes_of({pod["metadata"]["uid"] for pod in found})
    assert not [p for p in left if b"finetune_trainer" in p.command], "on none of the nodes"


def test_ten_kills_of_the_operator_during_a_job_neither_double_nor_lose_anything(
    jobs: Jobs, kubectl: Kubectl, attempts: Any, place: str
) -> None:
    process, rng, steps = OperatorProcess(kubectl, place, RELEASE), random.Random(7), 600
    jobs.apply("orphan", steps=steps, data=DATA, workers={"resources": ONE_CPU})
    seen: dict[str, set[str]] = {}
    phases = []

    def look() -> None:
        for name, uid in jobs.children("orphan", "jobs,pods").items():
            seen.setdefault(name, set()).add(uid)

    for phase, times in KILLS.items():
        jobs.wait_phase("orphan", phase, seconds=WORK_SECONDS)
        for _ in range(times):
            process.kill()
            phases.append(jobs.status("orphan").get("phase"))
            look()
            time.sleep(rng.uniform(0.2, 2))
            look()
    status = jobs.wait_phase("orphan", "Succeeded", "Failed", seconds=WORK_SECONDS)
    look()
    print(f"killed in {phases}")
    assert status["phase"] == "Succeeded"
    assert len(phases) == 10 and {*KILLS} <= {*phases}
    assert [status[name] for name in ("prepareAttempt", "attempt", "exportAttempt")] == [0, 0, 0]
    children = sorted(name for name in seen if name.startswith("Job/"))
    assert children == ["Job/orphan-a0", "Job/orphan-p0", "Job/orphan-x0"]
    assert all(len(uids) == 1 for uids in seen.values()), seen
    assert sum(name.startswith("Pod/") for name in seen) == 4, sorted(seen)
    told = curve(attempts("orphan") / "0")
    assert [step for step, _ in told] == list(range(1, steps + 1))
    assert float(status["metrics"]["loss"]) == pytest.approx(told[-1][1], rel=1e-3)


@pytest.mark.parametrize("phase", ["Preparing", "Training", "Exporting"])
def test_deleting_a_job_removes_all_children_within_the_grace_period_and_keeps_its_files(
    jobs: Jobs, attempts: Any, phase: str
) -> None:
    name = f"deleted-{phase.lower()}"
    steps = {"Exporting": 2}.get(phase, 100_000)
    jobs.apply(name, steps=steps, data=DATA, workers={"resources": ONE_CPU})
    jobs.wait_phase(name, phase)
    folder = attempts(name)
    if phase == "Training":
        wait_for("steps", lambda: step_of(folder / "0", 0) >= 3, WORK_SECONDS)
    letter = {"Preparing": "p", "Training": "a", "Exporting": "x"}[phase]
    wait_for("its pods", lambda: any(f"-{letter}0-" in pod for pod in jobs.living_pods(name)))
    jobs.delete(name)
    wait_for("no child is left", lambda: not jobs.children(name), GRACE_SECONDS + 15)
    if phase == "Training":
        assert list((folder / "0/checkpoints").glob("step-*/manifest.json")), "saved on SIGTERM"
    if phase == "Exporting":
        assert (folder / "0/adapter/adapter_model.safetensors").is_file()


def test_a_job_that_slept_goes_on_from_its_checkpoint_with_the_curve_of_one_that_did_not(
    jobs: Jobs, attempts: Any
) -> None:
    steps = 200
    for name in ("awake", "slept"):
        jobs.apply(
            name,
            steps=steps,
            data=DATA,
            method={"full": {}},  # adapters hardly teach a model of random weights
            training={
                "microBatchSize": 2,
                "globalBatchSize": 16,
                "learningRate": "3e-3",
                "dropout": "0.1",
            },
            evaluation={"everySteps": 50},
            workers={"resources": ONE_CPU},
        )
    wait_for("its first steps", lambda: step_of(attempts("slept") / "0", 1) >= 3)
    gang = {child for child in jobs.children("slept", "jobs,pods") if "slept-a0" in child}
    assert len(gang) == 3, gang
    jobs.patch("slept", suspend=True)
    status = jobs.wait_phase("slept", "Suspended")
    wait_for("its pods are gone", lambda: not jobs.children("slept", "jobs,pods").keys() & gang, 30)
    told = conditions(status)
    assert (told["Suspended"]["status"], told["GangReady"]["status"]) == ("True", "False")
    first = attempts("slept") / "0"
    saved = step_of(first, 0)
    assert 3 <= saved < steps, "suspended in the middle of training"
    assert (first / f"checkpoints/step-{saved}/manifest.json").is_file()

    jobs.patch("slept", suspend=False)
    ends = {name: jobs.wait_phase(name, "Succeeded", "Failed") for name in ("awake", "slept")}
    assert {end["phase"] for end in ends.values()} == {"Succeeded"}, ends
    second = attempts("slept") / "1"
    parent = json.loads((second / "parent.json").read_text())
    assert (parent["attempt"], parent["step"]) == (0, saved)
    parts = [*curve(first), *curve(second)]
    assert [step for step, _ in parts] == list(range(1, steps + 1)), "no step twice, none left out"
    assert parts == curve(attempts("awake") / "0")
    assert parts[-1][1] < parts[0][1] / 2, "and it learns"
    metrics = {name: end["metrics"] for name, end in ends.items()}
    assert metrics["slept"] == metrics["awake"]
    assert ends["slept"]["attempt"] == 1 and "failure" not in ends["slept"]


def test_a_killed_rank_and_an_evicted_pod_change_nothing_of_the_result(
    jobs: Jobs, kubectl: Kubectl, attempts: Any, place: str
) -> None:
    steps, interval = 200, 10
    for name in ("calm", "rough"):
        jobs.apply(
            name,
            steps=steps,
            data=DATA,
            method={"lora": {"dropout": "0.1", "rslora": "Enabled", "dora": "Enabled"}},
            training={
                "microBatchSize": 2,
                "globalBatchSize": 16,
                "learningRate": "3e-3",
                "neftuneNoiseAlpha": "5",
            },
            evaluation={"everySteps": 100},
            checkpoint={"everySteps": interval},
            workers={"terminationGracePeriodSeconds": 120, "resources": ONE_CPU},
        )

    def pod_at_work(attempt: int, index: int, step: int) -> dict[str, Any]:
        folder = attempts("rough") / str(attempt)
        wait_for(f"step {step}", lambda: step_of(folder, index) >= step, WORK_SECONDS, 0.1)
        gang = f"finetune.dev/job=rough,finetune.dev/stage=train,finetune.dev/attempt={attempt}"
        found = kubectl.json("get", "pods", "-l", gang, namespace=place)["items"]
        names = f"rough-a{attempt}-{index}-"
        return next(dict(pod) for pod in found if pod["metadata"]["name"].startswith(names))

    inside = processes_of({pod_at_work(0, 1, 3 * interval)["metadata"]["uid"]})
    (rank,) = [p.pid for p in inside if b"RANK=1" in p.environment and b".rank" in p.command]
    os.kill(rank, signal.SIGKILL)
    evict(kubectl, pod_at_work(1, 0, 8 * interval))
    ends = {
        name: jobs.wait_phase(name, "Succeeded", "Failed", seconds=WORK_SECONDS)
        for name in ("calm", "rough")
    }
    assert {end["phase"] for end in ends.values()} == {"Succeeded"}, ends

    status = ends["rough"]
    killed, evicted = status["pastFailures"]
    assert (killed["class"], killed["budget"]) == ("Internal", "Program")
    assert (evicted["class"], evicted["budget"]) == ("Evicted", "Infrastructure")
    restarts = status["restarts"]
    assert (restarts["program"], restarts["infrastructure"], status["attempt"]) == (1, 1, 2)
    assert "failure" not in status and "restarts" not in ends["calm"]

    # Lost are at most an interval and what was in flight by the kill, nothing by the eviction.
    parts = [curve(attempts("rough") / str(attempt)) for attempt in range(3)]
    last = [part[-1][0] for part in parts]
    parents = [
        json.loads((attempts("rough") / f"{attempt}/parent.json").read_text()) for attempt in (1, 2)
    ]
    assert [parent["attempt"] for parent in parents] == [0, 1]
    began = [parent["step"] for parent in parents]
    print(f"killed after step {last[0]}, went on from {began[0]}; evicted after step {last[1]}, "
          f"went on from {began[1]}; {restarts['stepsRedone']} steps told as lost")  # fmt: skip
    assert began[0] % interval == 0 and 0 <= last[0] - began[0] <= interval + IN_FLIGHT
    assert began[1] == last[1]
    assert status["resumedFrom"] == {"attempt": 1, "step": began[1]}
    assert killed["stepsRedone"] == max(0, killed["step"] - began[0])
    assert (evicted["stepsRedone"], restarts["stepsRedone"]) == (0, killed["stepsRedone"])

    for end in ends.values():
        account, spent = end["goodput"], end["goodput"]["seconds"]
        print(f"{spent}, {account['percent']} % productive")
        begin, until = map(datetime.fromisoformat, (end["startTime"], end["completionTime"]))
        assert account["until"] == end["completionTime"]
        assert sum(spent.values()) == (until - begin).total_seconds()
        assert min(spent[cause] for cause in ("prepare", "init", "productive", "export")) > 0
    assert status["goodput"]["seconds"]["restart"] >= 5, "one pause: an eviction has none"
    assert ends["calm"]["goodput"]["seconds"]["restart"] == 0

    # The curve is that of the undisturbed run at every step, and so is the result, bit for bit.
    undisturbed = curve(attempts("calm") / "0")
    assert [step for step, _ in undisturbed] == list(range(1, steps + 1))
    for part in parts:
        assert part == undisturbed[part[0][0] - 1 : part[-1][0]]
    assert (last[2], status["metrics"]) == (steps, ends["calm"]["metrics"])
    adapters = [
        (attempts(name) / f"{attempt}/adapter/adapter_model.safetensors").read_bytes()
        for name, attempt in (("calm", 0), ("rough", 2))
    ]
    merged = [
        (attempts(name).parent / "output/merged/model.safetensors").read_bytes()
        for name in ("calm", "rough")
    ]
    assert adapters[0] == adapters[1] and merged[0] == merged[1]
    settings = json.loads((attempts("calm") / "0/adapter/adapter_config.json").read_text())
    assert settings["use_rslora"] and settings["use_dora"]


def test_a_rank_killed_while_a_checkpoint_is_written_costs_that_one_alone(
    jobs: Jobs, kubectl: Kubectl, attempts: Any, place: str
) -> None:
    steps, interval = 120, 10
    jobs.apply(
        "torn",
        steps=steps,
        data=DATA,
        method={"full": {}},
        checkpoint={"everySteps": interval},
        workers={"resources": ONE_CPU},
    )
    first = attempts("torn") / "0"
    wait_for("step 20", lambda: step_of(first, 1) >= 20, WORK_SECONDS, 0.1)
    pods = kubectl.json("get", "pods", "-l", "finetune.dev/job=torn", namespace=place)["items"]
    inside = processes_of({pod["metadata"]["uid"] for pod in pods})
    (rank,) = [p.pid for p in inside if b"RANK=1" in p.environment and b".rank" in p.command]
    wait_for("no save", lambda: not list((first / "checkpoints").glob("*.tmp")), 60, 0.001)
    wait_for("a save", lambda: list((first / "checkpoints").glob("*.tmp")), 60, 0.001)
    os.kill(rank, signal.SIGKILL)
    (torn,) = (first / "checkpoints").glob("*.tmp")
    at = int(torn.stem.removeprefix("step-"))

    status = jobs.wait_phase("torn", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")
    assert status["attempt"] == 1
    parent = json.loads((first.parent / "1/parent.json").read_text())
    assert (parent["attempt"], parent["step"]) == (0, at - interval)
    assert not torn.exists() and not (first / f"checkpoints/step-{at}").exists()
    parts = [curve(first.parent / str(attempt)) for attempt in range(2)]
    again = [one for one in parts[0] if one[0] > at - interval]
    assert len(again) >= interval, "training had gone on"
    assert parts[1][: len(again)] == again, "the same losses as before"
    assert parts[1][-1][0] == steps
    told = [line for line in lines_of(first.parent / "1") if "stallSeconds" in line]
    assert [line["step"] for line in told] == list(range(at, steps, interval))
    stall, seconds = (sum(line[key] for line in told) for key in ("stallSeconds", "seconds"))
    print(f"killed while step {at} was written, after step {parts[0][-1][0]}; training stood still "
          f"for {stall:.2f} s of the {seconds:.2f} s of {len(told)} checkpoints")  # fmt: skip


def test_a_stopped_rank_is_found_and_named_and_the_gang_goes_on(
    jobs: Jobs, kubectl: Kubectl, attempts: Any, place: str
) -> None:
    steps, patience = 120, 20
    jobs.apply(
        "frozen",
        steps=steps,
        data=DATA,
        checkpoint={"everySteps": 10},
        recovery={"hangAfterSeconds": patience},
        workers={"resources": ONE_CPU},
    )
    first = attempts("frozen") / "0"
    wait_for("step 20", lambda: step_of(first, 1) >= 20, WORK_SECONDS, 0.1)
    found = kubectl.json(
        "get", "pods", "-l", "finetune.dev/job=frozen,finetune.dev/stage=train", namespace=place
    )["items"]
    victim = next(pod for pod in found if pod["metadata"]["name"].startswith("frozen-a0-1-"))
    inside = processes_of({victim["metadata"]["uid"]})
    (rank,) = [p.pid for p in inside if b"RANK=1" in p.environment and b".rank" in p.command]
    os.kill(rank, signal.SIGSTOP)
    stopped = time.monotonic()
    failure = wait_for("the verdict", lambda: jobs.status("frozen").get("failure"), 120, 0.5)
    told_after = time.monotonic() - stopped
    status = jobs.wait_phase("frozen", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")
    (hang,) = status["pastFailures"]
    assert (hang["class"], hang["budget"]) == ("Hang", "Infrastructure")
    assert (failure["class"], failure["rank"], failure["exitCode"]) == ("Hang", 1, 76)
    assert failure["pod"] == victim["metadata"]["name"]
    assert failure["node"] == victim["spec"]["nodeName"]
    assert "is stopped" in failure["message"]
    assert (status["attempt"], status["restarts"]["infrastructure"]) == (1, 1)
    assert patience <= told_after <= patience + 40
    parts = [curve(first.parent / str(attempt)) for attempt in range(2)]
    assert parts[1][0][0] % 10 == 1 and parts[1][-1][0] == steps
    shared = dict(parts[0])
    again = [(step, loss) for step, loss in parts[1] if step in shared]
    assert all(shared[step] == loss for step, loss in again), "the same losses as before"
    print(f"named {told_after:.0f} s after it was stopped; {len(again)} steps done again")


def test_a_container_that_is_too_small_gets_a_smaller_training_of_the_same_batch(
    jobs: Jobs, files: Path, attempts: Any
) -> None:
    rows = [chat_row(f"What is gang {n}?", "A set of pods. " * 40) for n in range(1500)]
    (files / "many.jsonl").write_text("\n".join(rows))
    jobs.apply(
        "tight",
        steps=2,
        data={
            "train": [{"name": "rows", "uri": "pvc://work/many.jsonl"}],
            "sequenceLength": 256,
        },
        training={"microBatchSize": 256, "globalBatchSize": 512},
        workers={"resources": {**ONE_CPU, "limits": {"cpu": "1", "memory": "1000Mi"}}},
        recovery={"backoffSeconds": {"initial": 1, "max": 1}},
    )
    status = jobs.wait_phase("tight", "Succeeded", "Failed", seconds=WORK_SECONDS)
    print(status["resolved"].get("adaptations"), status.get("failure"))
    assert status["phase"] == "Succeeded", status.get("failure")
    resolved = status["resolved"]
    first = resolved["adaptations"][0]
    assert (first["class"], first["attempt"]) == ("HostOom", 0)
    assert first["change"] == "microBatchSize 256 → 128, accumulation 1 → 2"
    assert resolved["microBatchSize"] * resolved["accumulation"] * 2 == 512
    assert resolved["globalBatchSize"] == 512
    assert {past["class"] for past in status["pastFailures"]} == {"HostOom"}
    assert status["restarts"]["program"] == 0
    assert status["restarts"]["memory"] == status["attempt"] == len(resolved["adaptations"])
    assert [step for step, _ in curve(attempts("tight") / str(status["attempt"]))] == [1, 2]


def rate(files: Path, status: dict[str, Any], folder: Path) -> None:
    """A rater who likes the tuned model's answers: ratings from the key, which raters never see."""
    people = status["humanEvaluation"]
    bundle = files / people["uri"].removeprefix("pvc://work/")
    assert {path.name for path in bundle.iterdir()} == {
        "bundle.jsonl",
        "rate.html",
        "manifest.json",
    }
    items = [json.loads(line) for line in (bundle / "bundle.jsonl").read_text().splitlines()]
    assert len(items) == people["items"] and people["bundle"] in (bundle / "rate.html").read_text()
    key = json.loads((bundle.parent.parent / "attempts/0/rating-key.json").read_text())
    marks = {str(each["id"]): "A" if each["id"] in key["tunedIsA"] else "B" for each in items}
    content = {"bundle": people["bundle"], "rater": "Ann", "ratings": marks}
    (folder / "ratings-ann.json").write_text(json.dumps(content))


SCORER = """
import json, os
rows = [json.loads(line) for line in open(os.environ["ANSWERS"])]
def met(side):
    return {"met": sum(row[side]["text"] == row["reference"] for row in rows) / len(rows)}
json.dump({side: met(side) for side in ("tuned", "base")}, open(os.environ["SCORES"], "w"))
"""


def test_answers_are_scored_and_rated_by_people_before_the_model_is_published(
    jobs: Jobs,
    cluster: LocalCluster,
    kubectl: Kubectl,
    files: Path,
    place: str,
    images: Images,
    tmp_path: Path,
) -> None:
    """One answer to every question, so that a tiny model can learn it by heart. Half of the rows
    come from a bucket, and the result goes to one."""
    registry = registry_for_pods(kubectl)
    access = {
        "endpoint": start_s3(cluster, kubectl, place, "work", files),
        "secretRef": {"name": "s3-key"},
    }
    bring = ("create", "configmap", "asked-ratings", f"--from-file={tmp_path}")
    (tmp_path / "ratings-ann.json").write_text(
        json.dumps({"bundle": "sha256:of-another-job", "rater": "Ann", "ratings": {"1": "A"}})
    )
    kubectl(*bring, namespace=place)
    rows = [chat_row(f"What is gang {n}?", "A set of pods.") for n in range(ROWS)]
    (files / "same.jsonl").write_text("\n".join(rows[: ROWS // 2]))
    for bucket in ("rows", "models"):
        (files / "s3" / bucket).mkdir()
        (files / "s3" / bucket).chmod(0o777)
    (files / "s3/rows/same.jsonl").write_text("\n".join(rows[ROWS // 2 :]))
    jobs.apply(
        "asked",
        steps=60,
        data={"train": [{"name": "rows", "uri": "pvc://work/same.jsonl", "weight": "3"},
                        {"name": "far", "uri": "s3://rows", "weight": "1", "s3": access}],
              "evalFraction": "0.2", "sequenceLength": 64,
              "report": {"terms": [{"name": "animals", "words": ["zebra"]}]}},
        method={"full": {}},
        training={"learningRate": "1e-2"},
        workers={"resources": ONE_CPU},
        deepspeed={"zeroStage": 3},
        evaluation={"generation": {"metrics": ["BLEU", "ChrF", "RougeL", "ExactMatch", "Regex"],
                                   "regex": "pods[.]$", "maxNewTokens": 24, "scorers": [
            {"name": name, "image": images.trainer, "command": ["python", "-c", text],
             "resources": ONE_CPU}
            for name, text in (("met", SCORER), ("broken", "raise SystemExit('no judge')"))
        ]}, "human": {}},
        gate={"human": {"minWinRate": "0.9", "minRatings": 1},
              "scorers": [{"name": "met", "metric": "met", "minImprovement": "0.01"}]},
        output={"formats": ["Merged", "GGUF"], "destinations": [
            {"name": "registry", "oci": {
                "image": f"{registry}/results/asked:v1", "plainHTTP": "Enabled"}},
            {"name": "bucket", "s3": {"uri": "s3://models/asked", **access}},
            {"name": "file", "format": "GGUF", "s3": {"uri": "s3://models/gguf", **access}},
        ]},
    )  # fmt: skip
    wait_for(
        "ratings that do not fit",
        lambda: jobs.reason("asked") in ("RatingsInvalid", "GateFailed", "Failed"),
        WORK_SECONDS,
    )
    status = jobs.status("asked")
    assert "key ratings-ann.json: it rates another bundle" in status["pendingReason"]
    assert "artifact" not in status and jobs.living_pods("asked") == set()
    rate(files, status, tmp_path)
    kubectl("delete", "configmap", "asked-ratings", namespace=place)
    kubectl(*bring, namespace=place)
    status = jobs.wait_phase("asked", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")
    assert status["humanEvaluation"]["winRate"] == "1" and status["exportAttempt"] == 1
    assert "the win rate is 1" in conditions(status)["GatePassed"]["message"]
    metrics, baseline = status["metrics"], status["metrics"]["baseline"]
    scores = {"bleu", "chrF", "rougeL", "exactMatch", "regexMatch", "tokenAccuracy", "evalLoss"}
    assert metrics.keys() >= scores and baseline.keys() >= scores
    print({name: (baseline[name], metrics[name]) for name in scores})
    assert float(baseline["exactMatch"]) == 0.0 < float(metrics["exactMatch"])
    assert float(baseline["chrF"]) < float(metrics["chrF"])

    met, broken = status["scorers"]
    assert float(met["tuned"]["met"]) == float(metrics["exactMatch"]) and met["base"]["met"] == "0"
    assert broken["failure"] == "ended with exit code 1: no judge"
    assert conditions(status)["Scored"]["reason"] == "ScorerFailed"
    assert "met of scorer met is " in conditions(status)["GatePassed"]["message"]
    assert "Job/asked-s1" not in jobs.children("asked", "jobs")

    page = files / status["logs"]["answersPath"]
    published = files / status["artifact"]["path"] / "merged"
    table = [json.loads(line) for line in page.with_suffix(".jsonl").read_text().splitlines()]
    assert 1 <= len(table) <= ROWS // 2
    assert all(row["reference"] == "A set of pods." for row in table)
    met = sum(row["tuned"]["text"] == row["reference"] for row in table)
    assert met / len(table) == pytest.approx(float(metrics["exactMatch"]), abs=1e-5)
    assert (published / "answers.html").read_text() == page.read_text()
    assert "answers.html" in (published / "README.md").read_text()

    warning = "no row has a term of the list animals"
    assert warning in status["data"]["warnings"]
    assert "worth a look: " in conditions(status)["DatasetValid"]["message"]
    report = (files / status["data"]["reportPath"]).read_text()
    assert warning in report
    assert (published / "data-report.html").read_text() == report
    assert warning in (published / "README.md").read_text()

    artifact = status["artifact"]
    assert artifact["smokeTest"]["answer"] and artifact["smokeTest"]["tokens"] >= 1
    assert artifact["smokeTest"]["answer"] in conditions(status)["Published"]["message"]
    serving = files / artifact["servingPath"]
    applied = kubectl("apply", "--dry-run=server", "-f", str(serving), namespace=place)
    assert "asked-serving" in applied
    told = kubectl.json("get", "configmap", "asked-run", namespace=place)["data"]
    assert told["serving.yaml"] == serving.read_text()

    near, far = status["data"]["sources"]
    epoch = near["drawn"] + far["drawn"]
    assert abs(near["drawn"] - 0.75 * epoch) <= 0.5
    assert far["kept"] + far["notDrawn"] <= ROWS // 2 and far["notDrawn"] > 0

    pushed, in_bucket, _ = artifact["destinations"]
    assert in_bucket["uri"] == "s3://models/asked"
    held = files / "s3/models/asked"
    names = {str(path.relative_to(published)) for path in published.rglob("*") if path.is_file()}
    assert {str(path.relative_to(held)) for path in held.rglob("*") if path.is_file()} == names
    assert all((held / name).read_bytes() == (published / name).read_bytes() for name in names)
    assert (pushed["name"], pushed["uri"]) == ("registry", f"image://{registry}/results/asked:v1")
    reference = f"localhost:5000/results/asked@{pushed['digest']}"  # as nodes know it
    (question,) = table[0]["prompt"]
    said = asked_in_a_pod(kubectl, place, images.trainer, reference, question["content"])
    assert said == table[0]["tuned"]["text"], "the image says what the trained model said"
    file = files / artifact["path"] / "gguf/model.gguf"
    assert (files / "s3/models/gguf/model.gguf").read_bytes() == file.read_bytes()
    with llama_cpp(file, 256) as judge:
        assert judge.answer(question["content"], 24) == said, "and so does llama.cpp"


def registry_for_pods(kubectl: Kubectl) -> str:
    """host:port of the cluster's registry: it listens on every node."""
    addresses = kubectl.json("get", "nodes")["items"][0]["status"]["addresses"]
    node = next(each["address"] for each in addresses if each["type"] == "InternalIP")
    return f"{node}:5000"


def asked_in_a_pod(
    kubectl: Kubectl, namespace: str, trainer: str, model: str, question: str
) -> str:
    """The answer of a model image, mounted into a pod of the trainer image."""
    closed = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "served"},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "ask",
                "image": trainer,
                "args": ["answer", "--model=/model", f"--prompt={question}",
                         "--max-new-tokens=24"],
                "env": [{"name": "HOME", "value": "/tmp"}],
                "resources": ONE_CPU,
                "securityContext": closed,
                "volumeMounts": [{"name": "model", "mountPath": "/model", "readOnly": True},
                                 {"name": "tmp", "mountPath": "/tmp"}],
            }],
            "volumes": [
                {"name": "model", "image": {"reference": model, "pullPolicy": "IfNotPresent"}},
                {"name": "tmp", "emptyDir": {}},
            ],
        },
    }  # fmt: skip
    kubectl.apply(pod, namespace=namespace)

    def ended() -> Any:
        phase = kubectl.json("get", "pod", "served", namespace=namespace)["status"].get("phase")
        return phase if phase in ("Succeeded", "Failed") else None

    phase = wait_for("the answer", ended, WORK_SECONDS)
    log = kubectl("logs", "served", namespace=namespace)
    assert phase == "Succeeded", log
    (line,) = [each for each in log.splitlines() if each.startswith('{"id"')]
    return str(json.loads(line)["answer"])


AUGMENT = """
import json, os
for name in os.listdir(os.environ["ROWS_IN"]):
    rows = open(os.path.join(os.environ["ROWS_IN"], name)).read()
    with open(os.path.join(os.environ["ROWS_OUT"], name), "w") as out:
        out.write(rows + rows.replace("gang", "team"))
"""


def test_a_model_that_its_gate_holds_back_is_not_published(
    jobs: Jobs, kubectl: Kubectl, files: Path, attempts: Any, images: Images
) -> None:
    jobs.apply(
        "short",
        steps=3,
        data={**DATA, "evalFraction": "0.2",
              "augment": {"image": images.trainer, "command": ["python", "-c", AUGMENT]}},
        workers={"resources": ONE_CPU},
        evaluation={"generation": {"metrics": ["ExactMatch"], "maxNewTokens": 8},
                    "pairedPrompts": [{"name": "groups", "terms": ["gang", "team"], "prompts": [
                        {"prompt": "What is a {term}?", "answer": "A set of pods."}]}]},
        gate={"scores": [{"metric": "ExactMatch", "atLeast": "1"}]},
    )  # fmt: skip
    status = jobs.wait_phase("short", "Succeeded", "Failed", seconds=WORK_SECONDS)
    told = conditions(status)
    assert (status["phase"], status["failure"]["class"]) == ("Failed", "GateFailed")
    sentence = "exactMatch is 0 and has to be at least 1"
    for name, value in (("Failed", "True"), ("GatePassed", "False"), ("Published", "False")):
        assert (told[name]["status"], told[name]["reason"]) == (value, "GateFailed")
        assert sentence in told[name]["message"]
    assert "artifact" not in status and "restarts" not in status
    assert status["data"]["augment"] == {"rowsIn": ROWS, "rowsOut": 2 * ROWS}
    assert status["data"]["rows"] == 2 * ROWS
    (groups,) = status["metrics"]["pairedPrompts"]
    assert (groups["name"], groups["pairs"]) == ("groups", 1)
    assert groups["difference"] != groups["baseline"]["difference"]
    attempt = attempts("short") / "0"
    assert (attempt / "paired-prompts.jsonl").exists()
    assert (attempt / "adapter/adapter_model.safetensors").exists()
    assert (attempt / "answers.html").exists()
    output = attempt.parent.parent / "output"
    assert not output.exists() or not list(output.iterdir())


def test_training_that_learns_by_heart_is_stopped_and_its_best_weights_are_published(
    jobs: Jobs, kubectl: Kubectl, files: Path, attempts: Any
) -> None:
    """Answers are drawn by lot, so what is learnt of some questions harms all others."""
    rng = random.Random(3)
    words = ["gang", "pods", "question", "answer", "system", "user", "start", "together"]
    rows = [
        chat_row(f"What is gang {n}?", " ".join(rng.choice(words) for _ in range(12)))
        for n in range(ROWS)
    ]
    (files / "lots.jsonl").write_text("\n".join(rows))
    general = [chat_row(f"Is {n} a number?", "It is one.") for n in range(6)]
    (files / "everyday.jsonl").write_text("\n".join(general))
    steps = 2000
    jobs.apply(
        "heart",
        steps=steps,
        data={"train": [{"name": "rows", "uri": "pvc://work/lots.jsonl"}],
              "general": [{"name": "everyday", "uri": "pvc://work/everyday.jsonl"}],
              "evalFraction": "0.3", "sequenceLength": 64},
        method={"full": {}},
        training={"learningRate": "1e-2", "schedule": {"type": "Constant"}},
        workers={"resources": ONE_CPU},
        evaluation={"everySteps": 5,
                    "overfitting": {"action": "StopKeepBest", "patience": 4, "minDelta": "0.001"}},
        gate={"forgetting": {"maxLossIncrease": "10"}},
    )  # fmt: skip
    status = jobs.wait_phase("heart", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")
    told, best = conditions(status)["Overfitting"], status["checkpoints"]["best"]
    print(told, best, status["progress"])
    assert told["reason"] in ("Overfitting", "NoImprovement")
    assert told["status"] == str(told["reason"] == "Overfitting")
    assert f"step {best['step']} is kept" in told["message"]
    assert told["message"] in conditions(status)["Succeeded"]["message"]
    assert status["progress"]["step"] < steps
    assert status["artifact"]["step"] == best["step"] < status["progress"]["step"]
    assert float(status["metrics"]["evalLoss"]) == pytest.approx(float(best["evalLoss"]), rel=1e-4)
    written = lines_of(attempts("heart") / "0")
    (tested,) = [line["selfTest"] for line in written if "selfTest" in line]
    assert tested["passed"] and tested["packed"] == pytest.approx(tested["alone"], rel=1e-4)
    lines = [line for line in written if "evalLoss" in line]
    losses = {line["step"]: line["evalLoss"] for line in lines if not line.get("restored")}
    assert min(losses, key=lambda step: losses[step]) == best["step"]

    metrics, passed = status["metrics"], conditions(status)["GatePassed"]
    tuned, base = float(metrics["generalLoss"]), float(metrics["baseline"]["generalLoss"])
    assert passed["message"].startswith(f"generalLoss is {tuned:.4g} after {base:.4g} of the untou")
    assert (passed["status"], status["data"]["generalRows"]) == ("True", 6)
    kept = next(line for line in lines if line.get("restored") == best["step"])
    assert tuned == pytest.approx(kept["generalLoss"], rel=1e-4)
    of_rows, of_general = metrics["datasets"]
    assert (of_rows["role"], of_rows["name"]) == ("Eval", "rows")
    assert (of_general["role"], of_general["name"]) == ("General", "everyday")
    assert float(of_general["loss"]) == pytest.approx(tuned, rel=1e-4)
    assert float(of_general["baseline"]["loss"]) == pytest.approx(base, rel=1e-4)
    assert float(of_rows["loss"]) == pytest.approx(float(metrics["evalLoss"]), rel=1e-4)


def test_a_job_goes_on_from_the_adapter_of_another_and_its_result_is_used_again(
    jobs: Jobs, kubectl: Kubectl, files: Path, place: str
) -> None:
    small = {"steps": 4, "data": DATA, "workers": {"resources": ONE_CPU}}
    child = {**small, "model": {"uri": "job://parent"}}
    jobs.apply("child", **child)
    wait_for("a reason to wait", lambda: waits_for(jobs.status("child"), "does not exist"))
    jobs.apply("parent", **small, output={"formats": ["Adapter"]})
    wait_for("the parent", lambda: waits_for(jobs.status("child"), "waiting for it"))
    status = jobs.wait_phase("child", "Succeeded", "Failed", seconds=2 * WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")
    parent = jobs.status("parent")
    assert parent["artifact"]["formats"] == ["Adapter"]
    [ancestor] = status["lineage"]["jobs"]
    assert (ancestor["job"], ancestor["step"]) == ("parent", 4)
    assert ancestor["artifact"] == parent["artifact"]["digest"]
    assert ancestor["lock"] == parent["lock"]["digest"] != status["lock"]["digest"]
    assert status["lineage"]["summary"] == "parent@4 ← pvc://work/model"
    wide = kubectl("get", "ftj", "child", "-o", "wide", namespace=place)
    assert status["lineage"]["summary"] in str(wide)
    merged = files / status["artifact"]["path"] / "merged"
    lock = json.loads((merged / "lock.json").read_text())
    assert lock["digest"] == status["lock"]["digest"]
    assert lock["lineage"]["base"] == "pvc://work/model"
    assert '"job": "parent"' in (merged / "README.md").read_text()

    jobs.apply("twin", **child, output={"reuse": "SameLock"})
    again = jobs.wait_phase("twin", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert again["phase"] == "Succeeded", again.get("failure")
    assert again["lock"] == status["lock"]
    assert again["reused"]["job"] == "child" and "refused" not in again["reused"]
    assert (
        "that of FineTuneJob child, which has the same lock"
        in (conditions(again)["Succeeded"]["message"])
    )
    assert "Job/twin-a0" not in jobs.children("twin", "jobs")
    assert again["artifact"]["digest"] == status["artifact"]["digest"]
    assert again["metrics"]["loss"] == status["metrics"]["loss"]
    weights = files / again["artifact"]["path"] / "merged" / "model.safetensors"
    assert weights.read_bytes() == (merged / "model.safetensors").read_bytes()


def waits_for(status: dict[str, Any], words: str) -> bool:
    return words in status.get("pendingReason", "")


def curve(attempt: Path) -> list[tuple[int, float]]:
    """Step and loss, as one attempt wrote them."""
    return [(line["step"], line["loss"]) for line in lines_of(attempt) if "loss" in line]


def lines_of(attempt: Path) -> list[dict[str, Any]]:
    """What rank 0 wrote of each step, evaluation and checkpoint."""
    return [json.loads(line) for line in (attempt / "metrics.jsonl").read_text().splitlines()]
