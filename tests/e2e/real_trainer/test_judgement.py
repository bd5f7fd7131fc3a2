"""Models that are held back, and training that is stopped, for what evaluation found."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from e2e.gangs import DATA, ONE_CPU, ROWS, WORK_SECONDS, lines_of
from e2e.jobs import Jobs, conditions
from e2e.kubectl import Kubectl
from e2e.place import chat_row

if TYPE_CHECKING:
    from e2e.fixtures import Images

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

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
