"""One outcome for a pod, out of how its ranks ended."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer import outcome
from finetune_trainer.explanation import explain
from finetune_trainer.failures import BY_EXIT_CODE, BY_NAME
from finetune_trainer.last_lines import last_lines
from finetune_trainer.pod import Pod
from finetune_trainer.rank_process import PREEMPTED, RankProcess
from finetune_trainer.signatures.signature import UNFORESEEN


def verdict(
    pod: Pod, ranks: Sequence[RankProcess], order_of_death: Sequence[RankProcess]
) -> dict[str, Any]:
    """That of the first rank which failed by itself; all have ended."""
    failed = [rank for rank in order_of_death if rank.exit_code]
    if not failed:
        return _success(pod, ranks)
    by_itself = [rank for rank in failed if not rank.followed]
    return _failure(pod, ranks, (by_itself or failed)[0])


def _success(pod: Pod, ranks: Sequence[RankProcess]) -> dict[str, Any]:
    for rank in ranks:
        if rank.rank == 0 and (record := rank.record()):
            return record
    return outcome.succeeded("train", pod.attempt)


def _failure(pod: Pod, ranks: Sequence[RankProcess], rank: RankProcess) -> dict[str, Any]:
    code = rank.exit_code or 0
    recent = rank.log.recent
    result = (None if rank.seen else rank.record()) or {
        "stage": "train",
        "attempt": pod.attempt,
        "outcome": "preempted" if code == PREEMPTED else "failed",
    }
    failure = result.setdefault("failure", rank.seen or silent_death(code, recent))
    failure.update(rank=rank.rank, localRank=rank.local_rank, exitCode=code)
    if "signature" not in failure and failure.get("class") != UNFORESEEN:
        # The error of an unforeseen failure was asked already; the log may hold older ones.
        explain(failure, recent)
    others = [other.log.recent for other in ranks if other is not rank]
    if lines := last_lines(recent, others):
        failure["lines"] = lines
    for known in ("account", "resumedFrom"):
        _ask_others(ranks, result, known)
    rank.silence.listen(0.0)  # its last sign may be newer than the last look
    if (meeting := _since_meeting(rank, failure)) is not None:
        failure["since"] = meeting
    if "step" not in failure and "step" in rank.silence.beat:
        failure["step"] = rank.silence.beat["step"]
    return result


def _ask_others(ranks: Sequence[RankProcess], result: dict[str, Any], name: str) -> None:
    """A rank that said nothing may have left others that knew the same."""
    told = (record for rank in ranks if (record := rank.record()) and name in record)
    if name not in result and (record := next(told, None)) is not None:
        result[name] = record[name]


def _since_meeting(rank: RankProcess, failure: dict[str, Any]) -> dict[str, Any] | None:
    """How long after the ranks had last met it failed: by one clock, so that the ends of pods on
    nodes with different clocks can be put in order."""
    beat = rank.silence.beat
    if "met" not in beat or "at" not in failure:
        return None
    seconds = float(beat["since"]) + float(failure["at"]) - float(beat["at"])
    return {"met": beat["met"], "seconds": round(seconds, 3)}


def silent_death(code: int, recent: Sequence[str]) -> dict[str, Any]:
    """The failure of a rank that left no record: ``code`` is its exit code, ``recent`` its log."""
    if code > 128:
        name = _signal_name(code - 128)
        message = f"the rank was ended by {name} and said nothing"
        failure = {"class": "Internal", "exitCode": code, "message": message}
    elif code == PREEMPTED:
        message = "asked to stop before training began"
        failure = {"class": "Preempted", "exitCode": code, "message": message}
    else:
        kind = BY_EXIT_CODE.get(code, BY_NAME["Internal"])
        message = f"the rank ended with code {code} and said nothing"
        failure = {"class": kind.name, "exitCode": code, "message": message}
    explain(failure, [*recent, message])  # together: the log may know why the signal came
    return {**failure, "at": round(time.time(), 3)}


def exit_code(result: Mapping[str, Any]) -> int:
    return 0 if result["outcome"] == "succeeded" else int(result["failure"]["exitCode"])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
