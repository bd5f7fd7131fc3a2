"""The first pod to fail is named, whatever the clocks of the nodes say."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

from builders import NOW, ended_pod, failure_words, make_pod
from hypothesis import example, given
from hypothesis import strategies as st

from finetune_operator.observed import ChildPod, Termination
from finetune_operator.policies.failure import find_culprit

STARTED = NOW.timestamp() - 5000
skew = st.one_of(st.just(0.0), st.floats(-4, 6), st.floats(-120, 120))


def whole(moment: float) -> Any:
    """As Kubernetes writes it."""
    return NOW + timedelta(seconds=math.floor(moment - NOW.timestamp()))


def pod(index: int, at: float, skew: float, ack: float, *, words: bool, late: float) -> ChildPod:
    """It failed ``at`` seconds after the meeting of the ranks, a minute after the start; its
    kubelet saw it after ``ack`` seconds, and it noted the meeting ``late``."""
    met = STARTED + 60
    known: dict[str, Any] = {
        "scheduled": whole(STARTED),
        "acknowledged": whole(STARTED + ack + skew),
    }
    if words:
        since = {"met": 64, "seconds": at - late}
        said = failure_words(**{"class": "Internal", "at": met + at + skew, "since": since})
        return ended_pod(index, code=70, words=said, **known)
    ended = Termination(137, "OOMKilled", "", whole(met + at + skew))
    return make_pod(index, phase="Failed", ready=False, terminated=ended, **known)


pods = st.lists(
    st.tuples(st.floats(0, 30), skew, st.floats(0, 2), st.booleans(), st.floats(0, 0.4)),
    min_size=2,
    max_size=8,
)


@given(pods)
def test_the_first_that_failed_is_the_culprit(drawn: list[Any]) -> None:
    found = [pod(n, at, s, a, words=w, late=late) for n, (at, s, a, w, late) in enumerate(drawn)]
    culprit = find_culprit(found)
    assert culprit is not None
    first = min(at for at, *_ in drawn)
    assert drawn[culprit.index][0] <= first + 10


@example([(0.0, 5.0, 0.5, True, 0.0), (3.0, -1.0, 0.5, True, 0.0)])
@given(pods)
def test_those_who_tell_when_they_had_met_are_told_apart_within_a_second(drawn: list[Any]) -> None:
    found = [pod(n, at, s, a, words=True, late=late) for n, (at, s, a, _, late) in enumerate(drawn)]
    culprit = find_culprit(found)
    assert culprit is not None
    assert drawn[culprit.index][0] <= min(at for at, *_ in drawn) + 1


@given(pods)
def test_with_clocks_that_are_right_the_order_is_exact(drawn: list[Any]) -> None:
    """To the second, in which Kubernetes tells the end of a container without a word."""
    found = [pod(n, at, 0.0, a, words=w, late=0.0) for n, (at, _, a, w, _) in enumerate(drawn)]
    culprit = find_culprit(found)
    assert culprit is not None
    assert drawn[culprit.index][0] <= min(at for at, *_ in drawn) + 1
