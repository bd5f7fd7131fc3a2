"""Both images hold the same table of exit codes."""

from __future__ import annotations

from finetune_operator.api.failures import FAILURE_CLASSES as OPERATORS
from finetune_trainer.failures import FAILURE_CLASSES as TRAINERS


def test_operator_and_trainer_mean_the_same_by_a_code() -> None:
    assert [tuple(failure) for failure in TRAINERS] == [tuple(failure) for failure in OPERATORS]
