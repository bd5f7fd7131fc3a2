"""Bad numbers in the whole trainer, with the operator's own decisions between its attempts.

One token of the model has an embedding of NaN, and one row of the data holds it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import ended_pod, make_child_job, make_facts, make_plan, make_spec, status_in
from e2e.place import chat_row
from parity.test_whole_trainer import Pod
from safetensors.torch import load_file, save_file
from tiny_models import make_tokenizer, save_tiny_model

from finetune_operator.api.types import FineTuneJobStatus, StageName
from finetune_operator.policies.facts import Facts, State, Verdict
from finetune_operator.policies.failure import digest
from finetune_operator.policies.restart import restart_or_end

pytestmark = [pytest.mark.faults, pytest.mark.long]

ROWS = 90


def spec(**recovery: Any) -> dict[str, Any]:
    return make_spec(
        data={"sequenceLength": 64, "packing": "None"},
        method={"lora": {"dropout": "0.1"}},
        training={"steps": None, "epochs": "2", "microBatchSize": 2, "globalBatchSize": 4},
        workers={"count": 1, "ranksPerWorker": 2},
        checkpoint={"everySteps": 5},
        evaluation={"baseline": "Skip"},
        recovery=recovery,
    )


def run_json(wish: dict[str, Any], status: FineTuneJobStatus, sources: Path) -> str:
    config = json.loads(json.dumps(make_plan(wish, status).run_config))
    config["model"]["path"] = str(sources / "model")
    config["data"]["train"][0]["path"] = str(sources / "rows.jsonl")
    return json.dumps(config)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace after the prepare stage; ``sources`` beside it."""
    root = tmp_path_factory.mktemp("numbers")
    sources, workspace = root / "sources", root / "prepared"
    workspace.mkdir()
    save_tiny_model(sources / "model", tied=False)
    weights = load_file(sources / "model/model.safetensors")
    weights["model.embed_tokens.weight"][make_tokenizer().convert_tokens_to_ids("~")] = float("nan")
    save_file(weights, sources / "model/model.safetensors", {"format": "pt"})
    rows = [chat_row(f"What is gang {n}?", "A set of pods.") for n in range(ROWS)]
    rows.insert(ROWS // 2, chat_row("And this?", "A set of ~ pods."))
    (sources / "rows.jsonl").write_text("\n".join(rows))
    (workspace / "run.json").write_text(run_json(spec(), FineTuneJobStatus(), sources))
    done = subprocess.run(
        [sys.executable, "-m", "finetune_trainer", "prepare"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "FINETUNE_RUN_JSON": str(workspace / "run.json"),
            "FINETUNE_WORKSPACE": str(workspace),
            "FINETUNE_TERMINATION_LOG": str(workspace / "termination-log"),
            "FINETUNE_METRICS_PORT": "0",
            "FINETUNE_ATTEMPT": "0",
        },
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return workspace


def after(attempt: int, pod: Pod, code: int, status: FineTuneJobStatus, wish: Any) -> Facts:
    """What the operator sees when the gang of an attempt is gone."""
    return make_facts(
        status,
        jobs=(make_child_job(StageName.TRAIN, attempt, failure=("BackoffLimitExceeded", "…")),),
        evidence=(ended_pod(0, attempt=attempt, code=code, words=pod.message),),
        spec=wish,
    )


def live(prepared: Path, name: str, **recovery: Any) -> tuple[list[Pod], Verdict | None]:
    """Attempt after attempt, as the operator decides. None: the last one trained to its end."""
    workspace, wish = prepared.parent / name, spec(**recovery)
    shutil.copytree(prepared, workspace)
    status, pods = status_in(StageName.TRAIN), list[Pod]()
    for attempt in range(8):
        text = run_json(wish, status, prepared.parent / "sources")
        (workspace / "run.json").write_text(text)
        pods.append(Pod(workspace, attempt))
        code = pods[-1].end()
        if code == 0:
            return pods, None
        known = after(attempt, pods[-1], code, status, wish)
        verdict = restart_or_end(known, digest(known))
        if verdict.state is State.FAILED:
            return pods, verdict
        kept = status.model_copy(update={**verdict.changes, "attempt": attempt + 1})
        status = FineTuneJobStatus.model_validate(kept.wire())
    raise AssertionError("it never ends")


def steps_told(pod: Pod) -> list[dict[str, Any]]:
    lines = map(json.loads, (pod.folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if not {"evalLoss", "checkpointBytes", "selfTest"} & line.keys()]


def test_skipping_going_back_and_stopping_agree_on_the_step_and_on_the_result(
    prepared: Path,
) -> None:
    (skipping,), end = live(prepared, "skips")
    assert end is None, end
    told = steps_told(skipping)
    bad = [line["step"] for line in told if line.get("skipped") == "nonfinite"]
    assert len(bad) == 2, "once an epoch"
    assert all(("loss" in line) == (line["step"] not in bad) for line in told)
    assert skipping.message["skipped"] == {"nonfinite": 2}
    assert skipping.message["lastBadStep"] == bad[-1]

    (stopping,), end = live(prepared, "stops", onNonFinite="Stop")
    assert end is not None and end.reason == "NonFinite"
    failure = stopping.message["failure"]
    assert (failure["exitCode"], failure["step"]) == (72, bad[0] - 1)
    assert failure["signature"] == "NotFinite"
    assert f"not finite at step {bad[0]}: loss nan" in failure["message"]
    assert "first in the output of" in failure["message"]
    assert "embed_tokens.weight itself is not finite" in failure["message"]

    returning, end = live(prepared, "returns", onNonFinite="RollBack", rollBackSteps=1)
    assert end is None, end
    assert [pod.message.get("failure", {}).get("step") for pod in returning] == [
        *(step - 1 for step in bad),
        None,
    ]
    for pod, step in zip(returning[1:], bad, strict=True):
        assert pod.message["resumedFrom"]["step"] == (step - 1) // 5 * 5
    assert returning[-1].message["skipped"] == {"passedOver": 2}
    adapters = [
        (pod.folder / "adapter/adapter_model.safetensors").read_bytes()
        for pod in (skipping, returning[-1])
    ]
    assert adapters[0] == adapters[1], "the same weights, bit for bit"


def test_going_back_comes_to_an_end(prepared: Path) -> None:
    pods, end = live(prepared, "once", onNonFinite="RollBack", rollBackSteps=1, maxRollBacks=1)
    assert len(pods) == 2
    assert end is not None and end.reason == "NonFinite"
    assert end.message.endswith("; 1 roll-back did not help (spec.recovery.maxRollBacks: 1)")
