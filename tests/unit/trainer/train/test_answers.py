"""What a rank tells over HTTP and in its files."""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.metrics import METRICS, PREFIX, Metrics
from finetune_trainer.progress import MAX_BYTES, Progress, numbers
from finetune_trainer.server import serve


def get(port: int, path: str) -> tuple[str, bytes]:
    with urllib.request.urlopen(f"http://localhost:{port}{path}", timeout=5) as answer:
        return answer.headers["Content-Type"], answer.read()


@pytest.fixture
def progress(tmp_path: Path) -> Progress:
    return Progress(attempt=3, heartbeats=tmp_path, world_size=2)


def test_rank_0_answers_health_metrics_and_progress(progress: Progress) -> None:
    metrics = Metrics(rank=0)
    metrics["loss"].set(1.25)
    port = serve(0, metrics.registry, progress.render)
    assert get(port, "/healthz") == ("text/plain", b"ok\n")
    _, body = get(port, "/metrics")
    assert b"finetune_train_loss 1.25" in body
    kind, body = get(port, "/progress?now")
    assert kind == "application/json"
    assert json.loads(body) == {"attempt": 3, "phase": "init", "metrics": {}, "ranks": []}
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(port, "/other")


def test_other_ranks_have_no_progress() -> None:
    port = serve(0, Metrics(rank=1).registry, None)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(port, "/progress")


def test_progress_holds_the_heartbeats_of_all_ranks(progress: Progress, tmp_path: Path) -> None:
    for rank in range(2):
        Heartbeat(tmp_path, rank).beat("train", 10 + rank)
    ranks = json.loads(progress.render())["ranks"]
    assert [(beat["rank"], beat["phase"], beat["step"]) for beat in ranks] == [
        (0, "train", 10),
        (1, "train", 11),
    ]


def test_progress_leaves_out_what_is_unknown_and_says_what_is_not_finite(
    progress: Progress,
) -> None:
    progress.update(metrics={"evalLoss": 1.5, "loss": 2.0})
    base = {"evalLoss": -math.inf, "x": 0.5}
    measured = {"evalLoss": math.nan, "perplexity": math.inf, "loss": None, "baseline": base}
    progress.update(step=1, epoch=None, metrics=measured)
    content = json.loads(progress.render(), parse_constant=pytest.fail)
    words = {"evalLoss": "NaN", "perplexity": "Infinity"}
    assert content["metrics"] == {**words, "baseline": {"evalLoss": "-Infinity", "x": 0.5}}
    assert "epoch" not in content
    again = numbers(content["metrics"])
    assert math.isnan(again["evalLoss"]) and again["perplexity"] == math.inf
    assert again["baseline"] == base


def test_progress_of_a_thousand_ranks_stays_bounded_and_keeps_the_oldest_beats(
    tmp_path: Path,
) -> None:
    for rank in range(1500):
        beat = {"rank": rank, "phase": "train", "step": 123456, "at": 1795400000.123 + rank}
        (tmp_path / f"rank-{rank}.json").write_text(json.dumps(beat))
    body = Progress(0, tmp_path, 1500).render()
    assert len(body) <= MAX_BYTES
    ranks = json.loads(body)["ranks"]
    assert ranks[0]["rank"] == 0
    assert len(ranks) >= 300


def test_heartbeats_within_a_phase_are_at_most_one_a_second(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path, 0)
    heart.beat("train", 1)
    written = (tmp_path / "rank-0.json").stat().st_mtime_ns
    heart.beat("train", 2)
    assert (tmp_path / "rank-0.json").stat().st_mtime_ns == written
    heart.beat("checkpoint", 2)
    assert json.loads((tmp_path / "rank-0.json").read_text())["phase"] == "checkpoint"


def test_a_lost_volume_does_not_stop_the_heart(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    heart = Heartbeat(tmp_path / "file" / "below", 0)
    heart.beat("train", 1)
    assert heart.step == 1


def exported(metrics: Metrics) -> dict[str, Any]:
    from prometheus_client import generate_latest

    text = generate_latest(metrics.registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_known_series_start_at_zero() -> None:
    families = exported(Metrics(rank=0))
    skipped = families["finetune_train_steps_skipped"].samples
    assert {sample.labels["reason"]: sample.value for sample in skipped} == {
        "nonfinite": 0,
        "loss_spike": 0,
        "passed_over": 0,
        "loss_scale": 0,
        "no_tokens": 0,
    }


def test_a_gauge_is_exported_once_it_is_set() -> None:
    """A loss of 0, or a last step in 1970, would be told of each job that starts."""
    metrics = Metrics(rank=0)
    names = set(exported(metrics))
    assert (
        not {PREFIX + n for n in ("loss", "best_eval_loss", "last_step_timestamp_seconds")} & names
    )
    for value in (2.0, 1.0):
        metrics["loss"].set(value)
    assert [sample.value for sample in exported(metrics)[PREFIX + "loss"].samples] == [1.0]


def test_only_rank_0_speaks_for_the_job() -> None:
    names = set(exported(Metrics(rank=1)))
    assert PREFIX + "step_seconds" in names
    assert PREFIX + "loss" not in names


def test_names_and_labels_follow_the_rules() -> None:
    for metric in METRICS:
        assert metric.name.islower(), metric
        assert not metric.name.endswith("_total"), "the client adds it"
        assert metric.label not in ("job", "step", "sample", "uid"), metric
        assert metric.help, metric


def test_the_heartbeat_metric_names_only_the_current_phase() -> None:
    metrics = Metrics(rank=1)
    metrics.beat("load", 1.0)
    metrics.beat("train", 2.0)
    samples = exported(metrics)["finetune_train_heartbeat_timestamp_seconds"].samples
    assert [(s.labels["phase"], s.value) for s in samples] == [("train", 2.0)]


def test_a_meeting_is_written_at_once_and_time_counts_from_it(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path, 0)
    heartbeat.beat("train", 63)
    heartbeat.beat("train", 64)
    path = tmp_path / "rank-0.json"
    assert "met" not in json.loads(path.read_text())
    heartbeat.met(64)
    beat = json.loads(path.read_text())
    assert (beat["met"], beat["step"]) == (64, 64) and 0 <= beat["since"] < 0.5
    time.sleep(0.01)
    heartbeat.beat("eval", 64)
    assert json.loads(path.read_text())["since"] >= beat["since"] + 0.01
    assert '"met"' not in Progress(0, tmp_path, 1).render().decode(), "nobody else needs it"
