"""What the operator's role lacks when pods are to go: told, whatever they were to go for."""

from __future__ import annotations

from dataclasses import replace

from ..api.types import ConditionType, Reason
from .facts import Facts, State, Verb, Verdict


def with_missing_right(facts: Facts, verdict: Verdict) -> Verdict:
    """The verdict, and that nothing comes of it: its deletions were answered with 403.

    They are asked for again all the same, so it heals when the right comes. The reason of the
    verdict stays: what is on its way to be stopped is remembered by it.
    """
    refusal = facts.refusal
    if refusal is None or refusal.reason != Reason.FORBIDDEN:
        return verdict
    if not any(action.verb is Verb.DELETE for action in verdict.actions):
        return verdict
    if verdict.state.terminal:
        return replace(verdict, pending_reason=refusal.message)
    return replace(
        verdict,
        state=State.STUCK,
        pending_reason=refusal.message,
        conditions={
            **verdict.conditions,
            ConditionType.STALLED.value: ("True", refusal.reason, refusal.message),
        },
        quiet=False,
    )
