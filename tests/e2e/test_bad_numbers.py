"""Numbers that go bad in gangs of the real trainer on the real cluster.

One token of the model has an embedding of NaN, as damaged or never initialised tokens have, and one
row of the data holds it. In other data, one row of noise stands among rows that are all alike.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from e2e.jobs import Jobs, conditions
from e2e.kubectl import Kubectl
from e2e.place import chat_row, host_folder, own_operator
from safetensors.torch import load_file, save_file
from tiny_models import make_tokenizer, save_tiny_model

from local_cluster import LocalCluster

if TYPE_CHECKING:
    from e2e.fixtures import Images

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(1800)]

WORK_SECONDS = 900.0
ROWS = 240
ONE_CPU = {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}
FAST = {"backoffSeconds": {"initial": 1, "max": 1}}


@pytest.fixture(scope="module")
def place(kubectl: Kubectl, images: Images, shared_operator_asleep: None) -> Iterator[str]:
    with own_operator(
        kubectl, "numbers", "bad-numbers", images.operator, images.trainer,
        "trainer.env.FINETUNE_DEVICE=CPU",
    ) as namespace:  # fmt: skip
        yield namespace


@pytest.fixture(scope="module")
def files(cluster: LocalCluster, kubectl: Kubectl, place: str) -> Path:
    """The claim ``work`` on this host: a sound model, a damaged one, and rows for both."""
    folder = host_folder(cluster, kubectl, place, "work")
    save_tiny_model(folder / "model", tied=False)
    save_tiny_model(folder / "damaged", tied=False)
    weights = load_file(folder / "damaged/model.safetensors")
    weights["model.embed_tokens.weight"][make_tokenizer().convert_tokens_to_ids("~")] = float("nan")
    save_file(weights, folder / "damaged/model.safetensors", {"format": "pt"})
    alike = [chat_row(f"What is gang {n}?", "A set of pods.") for n in range(ROWS)]
    noise = "".join(random.Random(1).choices("XYZQJKVWzqjkxvw#%&@+=", k=24))
    for name, answer in (("nan", "A set of ~ pods."), ("noise", noise)):
        rows = [*alike[: ROWS // 2], chat_row("And this?", answer), *alike[ROWS // 2 :]]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def jobs(kubectl: Kubectl, files: Path, place: str) -> Jobs:
    return Jobs(kubectl, place)


def data(name: str) -> dict[str, Any]:
    source = {"name": "rows", "uri": f"pvc://work/{name}.jsonl"}
    return {"train": [source], "sequenceLength": 64, "packing": "None"}


def on_damaged(jobs: Jobs, name: str, recovery: dict[str, Any], **spec: Any) -> None:
    """Three epochs of about 57 steps; the bad row comes once in each."""
    jobs.apply(
        name,
        model={"uri": "pvc://work/damaged"},
        data=data("nan"),
        training={"steps": None, "epochs": "3", "microBatchSize": 2, "globalBatchSize": 4},
        method={"lora": {"dropout": "0.1"}},
        output={"formats": ["Adapter"]},
        checkpoint={"everySteps": 10},
        workers={"resources": ONE_CPU},
        recovery={**FAST, **recovery},
        **spec,
    )


def steps_told(attempt: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (attempt / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if not {"evalLoss", "checkpointBytes", "selfTest"} & line.keys()]


def test_numbers_that_are_not_finite_are_skipped_gone_back_behind_or_the_end(
    jobs: Jobs, kubectl: Kubectl, files: Path, place: str
) -> None:
    on_damaged(jobs, "skips", {})
    on_damaged(jobs, "stops", {"onNonFinite": "Stop"})
    on_damaged(jobs, "returns", {"onNonFinite": "RollBack", "rollBackSteps": 1})
    ends = {
        name: jobs.wait_phase(name, "Succeeded", "Failed", seconds=WORK_SECONDS)
        for name in ("skips", "stops", "returns")
    }

    def folder(name: str) -> Path:
        uid = kubectl.json("get", "ftj", name, namespace=place)["metadata"]["uid"]
        return files / place / uid / "attempts"

    skips = ends["skips"]
    print(skips["progress"], conditions(skips)["Succeeded"]["message"])
    assert skips["phase"] == "Succeeded", skips.get("failure")
    assert skips["progress"]["skipped"] == {"nonfinite": 3}
    assert (skips["attempt"], "restarts" in skips) == (0, False)
    told = steps_told(folder("skips") / "0")
    bad = [line["step"] for line in told if line.get("skipped") == "nonfinite"]
    assert len(bad) == 3 and skips["progress"]["lastBadStep"] == bad[-1]
    assert [line["step"] for line in told] == list(range(1, skips["resolved"]["steps"] + 1))
    assert all(("loss" in line) == (line["step"] not in bad) for line in told)
    sentence = f"3 steps left out (3 not finite), the last for its numbers is step {bad[-1]}"
    assert sentence in conditions(skips)["Succeeded"]["message"]

    stops = ends["stops"]
    failure = stops["failure"]
    print(conditions(stops)["Failed"]["message"])
    assert (stops["phase"], stops["attempt"]) == ("Failed", 0)
    assert conditions(stops)["Failed"]["reason"] == failure["class"] == "NonFinite"
    assert (failure["exitCode"], failure["step"]) == (72, bad[0] - 1)
    assert failure["signature"] == "NotFinite"
    assert f"not finite at step {bad[0]}: loss nan" in failure["message"]
    assert "(packed rows " in failure["message"]
    assert "embed_tokens.weight itself is not finite" in failure["message"]
    assert "spec.training.learningRate" in failure["hint"]
    assert "spec.recovery.onNonFinite is Stop" in conditions(stops)["Failed"]["message"]

    returns = ends["returns"]
    print(returns["resolved"]["passedOver"], returns["restarts"])
    assert returns["phase"] == "Succeeded", returns.get("failure")
    assert returns["resolved"]["passedOver"] == [
        {"attempt": n, "class": "NonFinite", "firstStep": step, "lastStep": step}
        for n, step in enumerate(bad)
    ]
    assert (returns["attempt"], returns["restarts"]["rollBacks"]) == (3, 3)
    assert returns["restarts"]["program"] == 0
    assert [past["step"] for past in returns["pastFailures"]] == [step - 1 for step in bad]
    for n, step in enumerate(bad, 1):
        parent = json.loads((folder("returns") / f"{n}/parent.json").read_text())
        assert parent["step"] == (step - 1) // 10 * 10, "the newest before the bad step"
    adapters = [
        (folder(name) / f"{attempt}/adapter/adapter_model.safetensors").read_bytes()
        for name, attempt in (("skips", 0), ("returns", 3))
    ]
    assert adapters[0] == adapters[1], "skipped or passed over: the same weights, bit for bit"
    events = kubectl.json("get", "events", namespace=place)["items"]
    about = {
        (e["involvedObject"]["name"], e["reason"], e["type"])
        for e in events
        if e["involvedObject"]["kind"] == "FineTuneJob"
    }
    assert ("returns", "Restarting", "Warning") in about
    assert ("stops", "NonFinite", "Warning") in about


def test_a_row_of_noise_is_a_spike_that_is_skipped_or_the_end(
    jobs: Jobs, kubectl: Kubectl, files: Path, place: str
) -> None:
    for name, policy in (("surprised", "Skip"), ("startled", "Stop")):
        jobs.apply(
            name,
            data=data("noise"),
            method={"full": {}},
            training={
                "steps": None,
                "epochs": "2",
                "microBatchSize": 2,
                "globalBatchSize": 4,
                "learningRate": "3e-3",
            },
            output={"formats": ["Merged"]},
            workers={"resources": ONE_CPU},
            recovery={"onLossSpike": policy, "lossSpike": {"windowSteps": 16}},
        )
    surprised = jobs.wait_phase("surprised", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert surprised["phase"] == "Succeeded", surprised.get("failure")
    skipped, spikes = surprised["progress"]["skipped"], surprised["progress"]["lossSpikes"]
    print(surprised["progress"])
    assert skipped == {"lossSpike": spikes} and spikes in (1, 2), "in the first epoch it is early"
    startled = jobs.wait_phase("startled", "Succeeded", "Failed", seconds=WORK_SECONDS)
    failure = startled["failure"]
    print(failure["message"])
    assert (failure["class"], failure["exitCode"], startled["attempt"]) == ("LossSpike", 79, 0)
    assert "the loss jumped to" in failure["message"] and "(packed rows " in failure["message"]
    assert "spec.recovery.lossSpike.factor" in failure["hint"]
