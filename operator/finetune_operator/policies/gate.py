"""What export says of the gate."""

from __future__ import annotations

from ..api.types import ConditionType, Reason
from ..reports import LastWords
from .facts import Facts


def gate_passed(facts: Facts, words: LastWords | None) -> dict[str, tuple[str, str, str]]:
    """Condition GatePassed of a job that was published; empty where it has no gate."""
    if facts.spec.gate is None:
        return {}
    message = words.gate.message if words and words.gate else "export published the model"
    return {ConditionType.GATE_PASSED.value: ("True", Reason.GATE_PASSED.value, message)}
