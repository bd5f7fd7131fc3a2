"""/metrics: the numbers of the live jobs, under the agreed names, in bounded numbers."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from builders import make_job
from prometheus_client import generate_latest

from finetune_operator.engine.store import Key
from finetune_operator.metrics import JobCollector, operator_metrics
from finetune_operator.observed import StoredJob

STATUS: dict[str, Any] = {
    "phase": "Succeeded",
    "completionTime": "2026-11-23T12:00:00Z",
    "progress": {"percent": 44},
    "resolved": {"workers": 2},
    "humanEvaluation": {"winRate": "0.7", "ratings": 40, "agreement": "-0.1"},
    "goodput": {
        "until": "2026-11-23T12:00:00Z",
        "seconds": {"queue": 7, "productive": 90},
        "gpuSeconds": 720,
    },
    "restarts": {"program": 1, "infrastructure": 2, "resizes": 4, "stepsRedone": 15, "total": 3},
    "scorers": [
        {"name": "polite", "tuned": {"tone": "0.9"}, "base": {"tone": "0.7"}},
        {"name": "broken", "failure": "ended with exit code 1"},
    ],
    "metrics": {
        "loss": "1.25",
        "evalLoss": "1.5",
        "perplexity": "4.48",
        "tokenAccuracy": "0.7",
        "bleu": "31.2",
        "generalLoss": "2.1",
        "baseline": {"evalLoss": "2.5", "bleu": "3.5", "generalLoss": "2.0"},
        "datasets": [
            {"role": "Eval", "name": "held", "loss": "1.5", "baseline": {"loss": "2.5"}},
            {"role": "General", "name": "everyday"},
            "no data set",
        ],
        "pairedPrompts": [
            {"name": "pronouns", "difference": "0.4", "baseline": {"difference": "0.1"}}
        ],
    },
}


def text(*jobs: StoredJob, limit: int = 10) -> str:
    metrics = operator_metrics(lambda: jobs, {"finetune_operator_x": ("X.", lambda: 3)}, limit)
    return generate_latest(metrics.registry).decode()


@pytest.mark.parametrize(
    "line",
    [
        'finetune_job_loss{finetunejob="demo",namespace="team-a"} 1.25',
        'finetune_job_eval_loss{finetunejob="demo",namespace="team-a"} 1.5',
        'finetune_job_eval_perplexity{finetunejob="demo",namespace="team-a"} 4.48',
        'finetune_job_baseline_eval_loss{finetunejob="demo",namespace="team-a"} 2.5',
        'finetune_job_eval_token_accuracy{finetunejob="demo",namespace="team-a"} 0.7',
        'finetune_job_eval_score{finetunejob="demo",metric="bleu",namespace="team-a"} 31.2',
        'finetune_job_baseline_eval_score{finetunejob="demo",metric="bleu",namespace="team-a"} 3.5',
        'finetune_job_paired_difference{finetunejob="demo",list="pronouns",namespace="team-a"} 0.4',
        'finetune_job_baseline_paired_difference{finetunejob="demo",list="pronouns",'
        'namespace="team-a"} 0.1',
        'finetune_job_scorer_score{finetunejob="demo",metric="tone",namespace="team-a",'
        'scorer="polite"} 0.9',
        'finetune_job_baseline_scorer_score{finetunejob="demo",metric="tone",namespace="team-a",'
        'scorer="polite"} 0.7',
        'finetune_job_general_loss{finetunejob="demo",namespace="team-a"} 2.1',
        'finetune_job_baseline_general_loss{finetunejob="demo",namespace="team-a"} 2.0',
        'finetune_job_dataset_loss{dataset="eval/held",finetunejob="demo",namespace="team-a"} 1.5',
        'finetune_job_baseline_dataset_loss{dataset="eval/held",finetunejob="demo",'
        'namespace="team-a"} 2.5',
        'finetune_job_progress_ratio{finetunejob="demo",namespace="team-a"} 0.44',
        'finetune_job_phase{finetunejob="demo",namespace="team-a",phase="Succeeded"} 1.0',
        'finetune_job_info{finetunejob="demo",method="lora",model="pvc://models/small",'
        'namespace="team-a",phase="Succeeded"} 1.0',
        'finetune_operator_jobs{namespace="team-a",phase="Succeeded"} 1.0',
        'finetune_job_restarts_total{cause="program",finetunejob="demo",namespace="team-a"} 1.0',
        'finetune_job_restarts_total{cause="infrastructure",finetunejob="demo",'
        'namespace="team-a"} 2.0',
        'finetune_job_steps_redone_total{finetunejob="demo",namespace="team-a"} 15.0',
        'finetune_job_resizes_total{finetunejob="demo",namespace="team-a"} 4.0',
        'finetune_job_workers{finetunejob="demo",namespace="team-a"} 2.0',
        'finetune_job_human_win_rate{finetunejob="demo",namespace="team-a"} 0.7',
        'finetune_job_human_ratings{finetunejob="demo",namespace="team-a"} 40.0',
        'finetune_job_human_agreement{finetunejob="demo",namespace="team-a"} -0.1',
        'finetune_job_goodput_seconds{cause="queue",finetunejob="demo",namespace="team-a"} 7.0',
        'finetune_job_goodput_seconds{cause="productive",finetunejob="demo",'
        'namespace="team-a"} 90.0',
        'finetune_job_goodput_seconds{cause="restart",finetunejob="demo",namespace="team-a"} 0.0',
        'finetune_job_gpu_seconds_total{finetunejob="demo",namespace="team-a"} 720.0',
        "finetune_operator_x 3.0",
    ],
)
def test_a_finished_job_is_still_told(line: str) -> None:
    assert line in text(make_job(status=STATUS)).splitlines()


def test_a_source_without_a_loss_has_no_series() -> None:
    assert "general/everyday" not in text(make_job(status=STATUS))


def test_no_label_is_called_job() -> None:
    assert "job=" not in text(make_job(status=STATUS)).replace("finetunejob=", "")


def test_a_job_that_is_gone_has_no_series() -> None:
    assert 'finetunejob="' not in text()


def test_a_job_without_numbers_has_none() -> None:
    assert "finetune_job_loss{" not in text(make_job())


def test_a_job_that_never_restarted_says_so() -> None:
    """A counter that appears with its first event hides that event from ``increase``."""
    told = text(make_job())
    assert told.count("finetune_job_restarts_total{") == 4
    assert 'finetune_job_steps_redone_total{finetunejob="demo",namespace="team-a"} 0.0' in told


def test_between_two_writes_time_goes_on_for_what_the_job_does_now() -> None:
    account = {**STATUS["goodput"], "current": "queue"}
    job = make_job(status={"phase": "Queued", "goodput": account})
    now = datetime.fromisoformat(account["until"]).timestamp() + 3600
    families = JobCollector(lambda: [job], 10, lambda: now).collect()
    (family,) = [f for f in families if f.name == "finetune_job_goodput_seconds"]
    told = {sample.labels["cause"]: sample.value for sample in family.samples}
    assert (told["queue"], told["productive"]) == (3607, 90)


def test_beyond_the_limit_only_active_jobs_have_series_and_the_rest_is_counted() -> None:
    finished = make_job(status=STATUS)
    jobs = [replace(finished, key=Key("team-a", f"done-{n}"), version=100 + n) for n in range(5)]
    active = replace(make_job(status={"phase": "Training"}), key=Key("team-a", "active"))
    told = text(*jobs, active, limit=2)
    assert 'finetunejob="active"' in told and 'finetunejob="done-4"' in told
    assert 'finetunejob="done-0"' not in told
    assert "finetune_operator_jobs_without_series 4.0" in told
    assert 'finetune_operator_jobs{namespace="team-a",phase="Succeeded"} 5.0' in told


@pytest.mark.parametrize(
    "status",
    [
        {"phase": "Training", "metrics": {"loss": "not a number"}, "progress": 7},
        {"metrics": {"baseline": "x"}, "phase": None, "restarts": "many"},
        {"goodput": {"until": 3}},
        {"goodput": {"until": "2026-11-23T12:00:00", "seconds": ["x"], "current": {}}},
    ],
)
def test_a_spoilt_status_does_not_spoil_the_page(status: dict[str, Any]) -> None:
    assert "finetune_job_info{" in text(make_job(status=status, spec={"model": 3}))


def test_requests_and_passes_are_counted() -> None:
    metrics = operator_metrics(tuple, {}, 1)
    metrics.count_request("PUT", "FineTuneJob", 200)
    metrics.reconcile_errors.labels("Stale").inc()
    told = generate_latest(metrics.registry).decode()
    assert (
        'finetune_operator_api_requests_total{code="200",kind="FineTuneJob",verb="PUT"} 1.0' in told
    )
    assert 'finetune_operator_reconcile_errors_total{error="Stale"} 1.0' in told
    for name in ("reconcile_seconds_bucket", "resync_last_success_timestamp_seconds"):
        assert f"finetune_operator_{name}" in told
