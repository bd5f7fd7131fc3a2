"""From rows to a model that was judged, without a cluster: prepare, two real ranks, export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from parity.test_whole_trainer import Pod
from prometheus_client.parser import text_string_to_metric_families
from tiny_models import save_tiny_model

ROWS = 40
STEPS = 30
ANSWER = "A set of pods."


def run_json(folder: Path, **gate: Any) -> dict[str, Any]:
    return {
        "job": {"namespace": "team", "name": "asked", "uid": "u1"},
        "model": {"path": str(folder / "source")},
        "data": {
            "train": [
                {"name": "a", "field": "spec.data.train[0]", "path": str(folder / "rows.jsonl")}
            ],
            "evalFraction": 0.2,
            "sequenceLength": 64,
        },
        "method": {},
        "training": {"steps": STEPS, "microBatchSize": 2, "accumulation": 2, "learningRate": 0.01},
        "zeroStage": 3,
        "workers": {"count": 1, "ranksPerWorker": 2, "device": "CPU"},
        "evaluation": {
            "everySteps": STEPS // 3,
            "generation": {
                "metrics": ["BLEU", "ChrF", "RougeL", "ExactMatch", "Regex", "JSONValid"],
                "regex": "pods[.]$",
                "maxNewTokens": 24,
            },
            "overfitting": {"action": "StopKeepBest"},
        },
        "gate": {"scores": [{"metric": "ExactMatch", "atLeast": 0.5, **gate}]},
    }


def stage(name: str, workspace: Path) -> dict[str, Any]:
    """Run a stage of one process; returns its last words."""
    words = workspace / f"{name}-words"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "FINETUNE_RUN_JSON": str(workspace / "run.json"),
        "FINETUNE_WORKSPACE": str(workspace),
        "FINETUNE_TERMINATION_LOG": str(words),
    }
    command = [sys.executable, "-m", "finetune_trainer", name]
    subprocess.run(command, env=environment, capture_output=True, timeout=240, check=False)
    told: dict[str, Any] = json.loads(words.read_bytes())
    return told


def gauges(page: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name.removeprefix("finetune_train_"), sample.labels.get("metric", "")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_a_model_is_asked_before_and_after_and_published_with_its_answers(tmp_path: Path) -> None:
    workspace = tmp_path / "ws"
    workspace.mkdir()
    save_tiny_model(tmp_path / "source")
    rows = [{"prompt": f"What is gang {n}?", "response": ANSWER} for n in range(ROWS)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (workspace / "run.json").write_text(json.dumps(run_json(tmp_path)))
    prepared = stage("prepare", workspace)
    assert prepared["outcome"] == "succeeded", prepared

    pod = Pod(workspace, 0)
    try:
        pod.wait_for_step(1)
        page = gauges(pod.get("/metrics").decode())
        assert pod.end() == 0, pod.logs()
    finally:
        pod.process.kill()
    words = pod.message
    assert len(pod.termination_log.read_bytes()) < 3000
    metrics, baseline = words["metrics"], words["metrics"]["baseline"]
    print(metrics, words.get("judgement"))
    scores = {"bleu", "chrF", "rougeL", "exactMatch", "regexMatch", "jsonValid", "tokenAccuracy"}
    assert metrics.keys() >= scores and baseline.keys() >= scores
    assert baseline["exactMatch"] == 0 and metrics["exactMatch"] > 0.5
    assert words["signatures"].keys() == {"bleu", "chrF"}
    assert page["baseline_eval_score", "chrF"] == pytest.approx(baseline["chrF"])
    assert page["generalization_gap", ""] == pytest.approx(0, abs=1), "before training"
    table = [json.loads(line) for line in (pod.folder / "answers.jsonl").open()]
    asked = [row["prompt"][0]["content"] for row in table]
    assert len(set(asked)) == len(asked) == prepared["data"]["evalRows"]
    met = sum(row["tuned"]["text"] == ANSWER for row in table)
    assert met / len(table) == pytest.approx(metrics["exactMatch"])

    exported = stage("export", workspace)
    assert exported["outcome"] == "succeeded", exported
    assert exported["gate"]["message"].startswith("exactMatch is ")
    assert exported["artifact"]["step"] in (STEPS // 3, 2 * STEPS // 3, STEPS)
    published = workspace / "output/merged"
    assert (published / "answers.html").read_text() == (pod.folder / "answers.html").read_text()
    assert "| exact match | 0 | " in (published / "README.md").read_text()

    (workspace / "run.json").write_text(json.dumps(run_json(tmp_path, minImprovement=1.5)))
    refused = stage("export", workspace)
    assert (refused["outcome"], refused["failure"]["exitCode"]) == ("failed", 80)
    assert "better by at least 1.5" in refused["failure"]["message"]
