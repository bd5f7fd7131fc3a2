import json
from pathlib import Path

import pytest

from benchmarks.trainer import speed


def test_speed_counts_steps_after_the_warm_up_and_all_time_between_them(tmp_path: Path) -> None:
    steps = [(10.0, 9.0, 500), (15.0, 4.5, 500), (17.0, 1.9, 300), (20.0, 2.6, 200)]
    lines: list[dict[str, float]] = [{"at": 1.0, "evalLoss": 2.0, "seconds": 1.0}]
    lines += [
        {"at": at, "computeSeconds": compute, "tokens": tokens} for at, compute, tokens in steps
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    found = speed(tmp_path / "metrics.jsonl")

    assert found.steps == 2
    assert found.step_seconds == pytest.approx(2.5)
    assert found.tokens_per_second == pytest.approx(500 / 5)
    assert found.outside == pytest.approx(1 - 4.5 / 5)
