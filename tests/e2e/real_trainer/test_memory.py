"""A gang whose container is too small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from e2e.gangs import ONE_CPU, WORK_SECONDS, curve
from e2e.jobs import Jobs
from e2e.place import chat_row

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


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
        workers={"resources": {**ONE_CPU, "limits": {"cpu": "1", "memory": "700Mi"}}},
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
