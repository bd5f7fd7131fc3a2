"""Scorers run once, end in one way or another, and the model goes on to its gate."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import (
    NOW,
    ended_pod,
    last_words,
    main_condition,
    make_child_job,
    make_facts,
    make_plan,
    make_pod,
    make_spec,
    seconds,
    status_in,
)

from finetune_operator.api.types import FineTuneJobStatus, ScorerStatus, StageName
from finetune_operator.objects.export_job import build_export_job
from finetune_operator.observed import Termination
from finetune_operator.policies.scorer_words import NoNumbersError, read_numbers
from finetune_operator.status import decide, judge

SCORE = StageName.SCORE
SCORERS = [{"name": "polite", "image": "a:1"}, {"name": "short", "image": "b:1"}]
SPEC = make_spec(evaluation={"generation": {"scorers": SCORERS, "scorerDeadlineSeconds": 60}})
GOOD = json.dumps({"tuned": {"politeness": 0.9}, "base": {"politeness": 0.71234567}})
SHORT = json.dumps({"tuned": {"words": 12}})
FAILED = ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
LATE = ("DeadlineExceeded", "Job was active longer than specified deadline")


def end(code: int = 0, message: str = "", reason: str = "") -> Termination:
    return Termination(code, reason or ("Error" if code else "Completed"), message, NOW)


def pod(ended: dict[str, Termination], **fields: Any) -> Any:
    bad = next((each for each in ended.values() if each.exit_code), None)
    given = {"ended": tuple(ended.items()), "phase": "Failed" if bad else "Succeeded", **fields}
    return ended_pod(0, SCORE, code=bad.exit_code if bad else 0, **given)


def facts(*pods: Any, **job: Any) -> Any:
    return make_facts(status_in(SCORE), jobs=(make_child_job(SCORE, **job),), pods=pods, spec=SPEC)


def scorers(status: Any) -> dict[str, Any]:
    return {each["name"]: each for each in status["scorers"]}


def test_after_training_the_scorers_are_written_ahead_and_created() -> None:
    words = ended_pod(0, StageName.TRAIN, words=last_words(StageName.TRAIN))
    done = make_facts(
        status_in(StageName.TRAIN),
        jobs=(make_child_job(StageName.TRAIN, complete=True),),
        pods=(words,),
        spec=SPEC,
    )
    status = decide(done).status
    assert (status["scoreAttempt"], status["phase"]) == (0, "Exporting")
    assert "exportAttempt" not in status
    assert main_condition(status, "Scored")["reason"] == "Scoring"
    created = decide(make_facts(FineTuneJobStatus.model_validate(status), spec=SPEC)).actions[-1]
    assert (created.kind, created.name) == ("Job", "demo-s0")


def test_what_they_say_goes_into_the_status_and_to_export() -> None:
    done = facts(pod({"polite": end(0, GOOD), "short": end(0, SHORT)}), complete=True)
    status = decide(done).status
    assert scorers(status) == {
        "polite": {
            "name": "polite", "tuned": {"politeness": "0.9"}, "base": {"politeness": "0.712346"},
        },
        "short": {"name": "short", "tuned": {"words": "12"}},
    }  # fmt: skip
    assert status["exportAttempt"] == 0 and "failure" not in status and "scored" in status
    told = main_condition(status, "Scored")
    assert (told["status"], told["reason"]) == ("True", "Scored")
    assert told["message"] == (
        "polite: politeness 0.9 (untouched model: 0.712346); short: words 12"
    )
    plan = make_plan(SPEC, status=FineTuneJobStatus.model_validate(status))
    (container,) = build_export_job(plan, 0, 0)["spec"]["template"]["spec"]["containers"]
    told_export = next(e["value"] for e in container["env"] if e["name"] == "FINETUNE_SCORERS")
    assert json.loads(told_export) == status["scorers"]


@pytest.mark.parametrize(
    ("ended", "says"),
    [
        pytest.param(end(3, "loading\nno model\n"), "ended with exit code 3: no model", id="dies"),
        pytest.param(end(137, "", "OOMKilled"), "went over its memory limit", id="memory"),
        pytest.param(end(1, "hf_" + "a" * 34), "exit code 1: ", id="a secret"),
        pytest.param(end(0, ""), "said no numbers: it wrote nothing", id="silent"),
        pytest.param(end(0, "0.9"), 'no object with the key "tuned"', id="a bare number"),
    ],
)
def test_one_that_fails_is_told_of_and_not_started_again(ended: Termination, says: str) -> None:
    both = {"polite": ended, "short": end(0, SHORT)}
    well = ended.exit_code == 0
    over = facts(pod(both), **({"complete": True} if well else {"failure": FAILED}))
    status = decide(over).status
    found = scorers(status)
    assert says in found["polite"]["failure"] and "tuned" not in found["polite"]
    assert found["short"]["tuned"] == {"words": "12"}, "the others count"
    assert "aaaa" not in json.dumps(status)
    told = main_condition(status, "Scored")
    assert (told["status"], told["reason"]) == ("False", "ScorerFailed")
    assert "scorer polite " in told["message"]
    assert status["exportAttempt"] == 0 and "restarts" not in status
    after = make_facts(FineTuneJobStatus.model_validate(status), jobs=over.observed.jobs, spec=SPEC)
    assert [action.name for action in decide(after).actions if action.kind == "Job"] == ["demo-x0"]


@pytest.mark.parametrize(
    ("ended", "job", "overdue"),
    [
        pytest.param({"short": end(0, SHORT)}, {"failure": FAILED}, True, id="still running"),
        pytest.param(
            {"polite": end(137), "short": end(0, SHORT)}, {"failure": FAILED}, True, id="killed"
        ),
        pytest.param({"short": end(0, SHORT)}, {"failure": LATE}, False, id="deadline of the Job"),
    ],
)
def test_one_that_is_not_done_in_time_has_failed(
    ended: dict[str, Termination], job: dict[str, Any], overdue: bool
) -> None:
    status = decide(facts(pod(ended, phase="Failed", overdue=overdue), **job)).status
    found = scorers(status)
    assert "was not done within 60 s" in found["polite"]["failure"]
    assert found["short"]["tuned"] == {"words": "12"}


def test_a_pod_that_never_ran_ends_with_the_deadline_of_its_job() -> None:
    status = decide(facts(failure=LATE)).status
    assert all("was not done" in each["failure"] for each in status["scorers"])
    assert status["exportAttempt"] == 0


def test_while_they_run_nothing_is_decided() -> None:
    running = make_pod(0, SCORE, ready=False, ended=(("short", end(0, SHORT)),))
    status = decide(facts(running)).status
    assert (status["phase"], "scorers" in status) == ("Exporting", False)
    assert main_condition(status, "Reconciling")["reason"] == "Scoring"


def test_a_node_that_took_them_away_costs_no_score() -> None:
    killed = {"polite": end(143), "short": end(143)}
    verdict = judge(facts(pod(killed, disruption="EvictionByEvictionAPI"), failure=FAILED))
    assert verdict.reason == "Restarting"
    assert "scored" not in verdict.changes


def test_scorers_that_filled_the_local_disk_are_told_so_and_run_once() -> None:
    said = "Pod ephemeral local storage usage exceeds the total limit of containers 2Gi."
    ends = {"polite": end(137), "short": end(0, SHORT)}
    status = decide(facts(pod(ends, overfull=said, phase="Failed"), failure=FAILED)).status
    assert said in scorers(status)["polite"]["failure"]
    assert "resources.limits.ephemeral-storage" in scorers(status)["polite"]["failure"]
    assert "failure" not in scorers(status)["short"]
    assert status["exportAttempt"] == 0


def test_words_that_are_lost_are_asked_for_again() -> None:
    assert judge(facts(complete=True)).reason == "Restarting"


def test_without_scorers_nothing_is_scored() -> None:
    status = decide(make_facts(status_in(StageName.EXPORT))).status
    told = main_condition(status, "Scored")
    assert (told["status"], told["reason"]) == ("Unknown", "NoScorers")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"tuned": {"a": 1}, "other": {}}', "'other' is neither"),
        ('{"base": {"a": 1}}', 'the key "tuned"'),
        ('{"tuned": {}}', "1 to 16 numbers"),
        ('{"tuned": [1]}', "1 to 16 numbers"),
        (json.dumps({"tuned": {f"m{n}": n for n in range(17)}}), "1 to 16 numbers"),
        ('{"tuned": {"a": true}}', "tuned.a is no number"),
        ('{"tuned": {"a": "0.9"}}', "tuned.a is no number"),
        ('{"tuned": {"a": NaN}}', "tuned.a is not finite"),
        ('{"tuned": {"a": 1e999}}', "tuned.a is not finite"),
        ('{"tuned": {"a": ' + "9" * 400 + "}}", "tuned.a is not finite"),
        ('{"tuned": {"a b": 1}}', "the name 'a b'"),
        ('{"tuned": {"' + "a" * 64 + '": 1}}', "letters, digits"),
        ('{"tuned": {"a": 1}, "base": null}', "base is no object"),
    ],
)
def test_only_named_finite_numbers_count(text: str, says: str) -> None:
    with pytest.raises(NoNumbersError) as caught:
        read_numbers(text)
    assert says in str(caught.value)


def test_numbers_are_told_as_decimal_strings() -> None:
    assert read_numbers('{"tuned": {"a": -1.5, "b_2": 1234567}}') == {
        "tuned": {"a": "-1.5", "b_2": "1.23457e+06"}
    }
    assert ScorerStatus(name="a", tuned={"x": "1"}).wire() == {"name": "a", "tuned": {"x": "1"}}


def test_numbers_are_asked_for_no_sooner_than_the_pod_is_over() -> None:
    left = make_pod(0, SCORE, overdue=True, due=NOW + seconds(5))
    verdict = judge(facts(left, failing=LATE))
    assert verdict.reason == "Scoring" and not verdict.changes
