"""Reports of the trainer become fields of the status: rounded, bounded, never a float."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import UID, make_facts, make_spec, status_in

from finetune_operator.api.types import Logs, Metrics, StageName
from finetune_operator.policies.numbers import progress_changes, read_metrics, trained_changes
from finetune_operator.reports import MetricsReport, read_last_words, read_progress

REPORT: dict[str, Any] = {
    "attempt": 0,
    "phase": "train",
    "step": 12,
    "steps": 90,
    "epoch": 0.41234567,
    "tokensPerSecond": 180.26789,
    "etaSeconds": 400.2,
    "updatedAt": 1795400000.5,
    "metrics": {"loss": 1.23456789, "learningRate": 0.0009, "baseline": {"evalLoss": 2.2}},
    "checkpoints": [{"step": 5}, {"step": 10, "verified": True, "bytes": 123}],
    "best": {"step": 10, "evalLoss": 1.8},
    "skipped": {"nonfinite": 2},
    "lossSpikes": 1,
    "ranks": [{"rank": 0, "phase": "train", "step": 12, "at": 1795400000.0}],
}


def report(**fields: Any) -> Any:
    return read_progress(json.dumps({**REPORT, **fields}).encode())


def test_a_report_becomes_progress_metrics_and_checkpoints() -> None:
    changes = progress_changes(make_facts(status_in(StageName.TRAIN), progress=report()))
    progress = changes["progress"].wire()
    assert (progress["step"], progress["percent"], progress["etaSeconds"]) == (12, 13, 401)
    assert (progress["epoch"], progress["tokensPerSecond"]) == ("0.4123", "180.3")
    assert progress["updatedAt"] == "2026-11-23T02:13:20Z"
    assert (progress["skipped"], progress["lossSpikes"]) == ({"nonfinite": 2}, 1)
    assert changes["metrics"].wire() == {
        "loss": "1.23457",
        "learningRate": "0.0009",
        "baseline": {"evalLoss": "2.2"},
    }
    assert changes["checkpoints"].wire() == {
        "latest": {"step": 10, "verified": True, "bytes": 123},
        "best": {"step": 10, "evalLoss": "1.8"},
    }


def test_a_report_of_another_attempt_is_not_believed() -> None:
    assert (
        progress_changes(make_facts(status_in(StageName.TRAIN), progress=report(attempt=1))) == {}
    )


def test_a_report_that_only_says_it_is_later_changes_nothing() -> None:
    first = progress_changes(make_facts(status_in(StageName.TRAIN), progress=report()))
    known = status_in(StageName.TRAIN, **first)
    later = report(updatedAt=1795400060.5, etaSeconds=340)
    again = progress_changes(make_facts(known, progress=later))
    assert "progress" not in again
    assert again["metrics"] == known.metrics and again["checkpoints"] == known.checkpoints


@pytest.mark.parametrize("own", [{}, {"best": {"step": 15, "evalLoss": 2.0}}])
def test_checkpoints_that_an_attempt_went_back_behind_are_forgotten(own: dict[str, Any]) -> None:
    first = progress_changes(make_facts(status_in(StageName.TRAIN), progress=report()))
    known = status_in(StageName.TRAIN, checkpoints=first["checkpoints"], attempt=1)
    bare = {name: value for name, value in REPORT.items() if name not in ("best", "checkpoints")}

    def after(start: int | None, **fields: Any) -> Any:
        began = {} if start is None else {"resumedFrom": {"attempt": 0, "step": start}}
        told = json.dumps({**bare, "attempt": 1, **began, **fields}).encode()
        found = progress_changes(make_facts(known, progress=read_progress(told)))["checkpoints"]
        return None if found is None else found.wire()

    everything = first["checkpoints"].wire()
    assert after(None) == everything, "it has not said yet where it goes on"
    assert after(10) == everything
    assert after(9) is None
    # It goes on from step 5, where the held-out rows had not been asked yet.
    saved = after(5, checkpoints=[{"step": 5}], **own)
    told = {"step": 15, "evalLoss": "2"} if own else None
    assert (saved["latest"]["step"], saved.get("best")) == (5, told)


def test_a_number_that_is_not_reported_now_keeps_its_last_value() -> None:
    known = Metrics(loss="1.5", eval_loss="1.8")
    assert read_metrics(MetricsReport(loss=1.25), known) == Metrics(loss="1.25", eval_loss="1.8")


def test_an_older_value_does_not_hide_a_number_that_is_not_finite() -> None:
    known = Metrics(loss="1.5", eval_loss="1.8", perplexity="6.05")
    words = {"evalLoss": "NaN", "perplexity": "Infinity", "gradNorm": "-Infinity"}
    for values in (words, {name: float(word) for name, word in words.items()}):
        metrics = read_metrics(MetricsReport.model_validate(values), known)
        assert metrics is not None and metrics.wire() == {"loss": "1.5", **words}
    told = MetricsReport.model_validate({"perplexity": None})
    assert read_metrics(told, known) == Metrics(loss="1.5", eval_loss="1.8")


def test_scores_of_answers_stand_beside_those_of_the_untouched_model() -> None:
    scores = {"bleu": 31.25, "chrF": 50, "rougeL": 0.5, "exactMatch": 0, "regexMatch": 1,
              "jsonValid": 0.125, "tokenAccuracy": 0.7}  # fmt: skip
    told = MetricsReport.model_validate({"loss": 1, **scores, "baseline": scores})
    wire = read_metrics(told, None)
    assert wire is not None
    expected = {name: f"{value:g}" for name, value in scores.items()}
    assert wire.wire() == {"loss": "1", **expected, "baseline": expected}
    later = read_metrics(MetricsReport(bleu=32), wire)
    assert later is not None and later.bleu == "32" and later.baseline == wire.baseline


DATASET = {
    "role": "General", "name": "everyday", "tokens": 9, "loss": 2.123456789, "perplexity": 8.4,
    "baseline": {"loss": 2, "perplexity": 7.4},
}  # fmt: skip


def test_scores_source_by_source_are_bounded_and_stay_until_the_next() -> None:
    many = [{**DATASET, "name": f"s{n}"} for n in range(40)]
    told = MetricsReport.model_validate({"generalLoss": 2.1, "datasets": many})
    metrics = read_metrics(told, None)
    assert metrics is not None and metrics.datasets is not None
    assert len(metrics.datasets) == 16
    assert metrics.datasets[0].wire() == {
        "role": "General", "name": "s0", "tokens": 9, "loss": "2.12346", "perplexity": "8.4",
        "baseline": {"loss": "2", "perplexity": "7.4"},
    }  # fmt: skip
    later = read_metrics(MetricsReport(loss=1), metrics)
    assert later is not None and later.datasets == metrics.datasets


def test_paired_prompts_are_told_with_the_untouched_model() -> None:
    numbers = {"difference": 0.4, "absoluteDifference": 0.6, "firstLikelier": 1}
    each = {"name": "pronouns", "pairs": 8, **numbers, "baseline": {**numbers, "difference": -1}}
    told = MetricsReport.model_validate({"pairedPrompts": [each] * 9})
    metrics = read_metrics(told, None)
    assert metrics is not None and metrics.paired_prompts is not None
    assert len(metrics.paired_prompts) == 4
    assert metrics.paired_prompts[0].wire() == {
        "name": "pronouns", "pairs": 8,
        "difference": "0.4", "absoluteDifference": "0.6", "firstLikelier": "1",
        "baseline": {"difference": "-1", "absoluteDifference": "0.6", "firstLikelier": "1"},
    }  # fmt: skip
    assert MetricsReport.model_validate({"pairedPrompts": [{}]}).paired_prompts == ()


@pytest.mark.parametrize(
    "wrong", [3, [3], [{"name": "x"}], [{**DATASET, "role": "Train"}], [{**DATASET, "name": ""}]]
)
def test_scores_of_sources_that_make_no_sense_leave_the_rest(wrong: Any) -> None:
    told = MetricsReport.model_validate({"generalLoss": 2.1, "datasets": wrong})
    assert (told.general_loss, told.datasets) == (2.1, ())


@pytest.mark.parametrize("wanted", [True, False])
def test_the_table_of_answers_is_named_once_training_is_over(wanted: bool) -> None:
    status = status_in(StageName.TRAIN, logs=Logs(claim="work", path="x"))
    spec = make_spec(evaluation={"generation": {}} if wanted else {})
    words = read_last_words('{"stage": "train", "attempt": 0, "outcome": "succeeded", "step": 3}')
    changes = trained_changes(make_facts(status, spec=spec), words)
    assert ("logs" in changes) == wanted
    if wanted:
        path = f"team-a/{UID}/attempts/0/answers.html"
        assert changes["logs"].wire() == {"claim": "work", "path": "x", "answersPath": path}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_speed_or_time_that_is_not_finite_is_unknown(number: str) -> None:
    for value in (number, f'"{number}"'):
        body = f'{{"attempt": 0, "updatedAt": 1, "etaSeconds": {value}, "epoch": {value}}}'
        told = read_progress(body.encode())
        assert told is not None and told.eta_seconds is None and told.epoch is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"attempt": -1, "updatedAt": 1}',
        b'{"attempt": 0, "updatedAt": 1e300}',
        b'{"attempt": 0, "updatedAt": 1, "step": 1.5}',
        b'{"attempt": 0, "updatedAt": 1, "phase": ' + b'"x' * 500 + b'"}',
        b"\xff\xfe",
        b"[" * 60_000,
    ],
)
def test_an_answer_that_is_no_report_is_dropped(body: bytes) -> None:
    assert read_progress(body) is None


@pytest.mark.parametrize("message", ["", "{", "[]", '{"stage": "train"}', "x" * 9000, "[" * 4000])
def test_last_words_that_are_none_are_dropped(message: str) -> None:
    assert read_last_words(message) is None


@pytest.mark.parametrize(
    ("unknown", "absent"),
    [
        ({"steps": 0}, {"percent", "summary"}),
        ({"step": None}, {"step", "percent", "summary"}),
        ({"etaSeconds": None}, {"etaSeconds", "eta"}),
    ],
)
def test_what_is_known_of_the_progress_is_told_without_what_is_not(
    unknown: dict[str, Any], absent: set[str]
) -> None:
    facts = make_facts(status_in(StageName.TRAIN), progress=report(**unknown))
    told = progress_changes(facts)["progress"].wire()
    assert told["tokensPerSecond"] == "180.3"
    assert absent.isdisjoint(told)
