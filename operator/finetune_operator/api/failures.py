"""Exit codes and failure classes, the vocabulary between trainer and operator.

The trainer ends with one of these codes; the operator turns a code back into its class. Codes are
extended, never renumbered: a new operator meets old trainer images.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Budget(StrEnum):
    """Which allowance pays for another attempt."""

    NONE = "None"
    """A repeat would fail in the same way."""
    PROGRAM = "Program"
    INFRASTRUCTURE = "Infrastructure"


class FailureClass(NamedTuple):
    name: str
    exit_code: int
    budget: Budget
    meaning: str


FAILURE_CLASSES = (
    FailureClass("ConfigInvalid", 64, Budget.NONE, "the job's settings cannot work"),
    FailureClass("BadData", 65, Budget.NONE, "the data cannot be used"),
    FailureClass("ModelLoad", 66, Budget.NONE, "the model cannot be fetched or loaded"),
    FailureClass("NoValidCheckpoint", 67, Budget.NONE, "no checkpoint passes verification"),
    FailureClass("Internal", 70, Budget.PROGRAM, "an unexpected error in the trainer"),
    FailureClass("CudaOom", 71, Budget.PROGRAM, "the GPU ran out of memory"),
    FailureClass("NonFinite", 72, Budget.PROGRAM, "loss or gradients are not finite"),
    FailureClass("DiskFull", 73, Budget.NONE, "the volume is full"),
    FailureClass("CollectiveTimeout", 74, Budget.INFRASTRUCTURE, "ranks lost each other"),
    FailureClass("Preempted", 75, Budget.INFRASTRUCTURE, "asked to stop; checkpoint saved"),
    FailureClass("Hang", 76, Budget.INFRASTRUCTURE, "a rank made no progress"),
    FailureClass("HardwareFault", 77, Budget.INFRASTRUCTURE, "the hardware reported a fault"),
    FailureClass("Rendezvous", 78, Budget.INFRASTRUCTURE, "the ranks never met"),
    FailureClass("LossSpike", 79, Budget.PROGRAM, "the loss is far above that of the steps before"),
    FailureClass("GateFailed", 80, Budget.NONE, "the model did not reach what spec.gate asks for"),
    FailureClass("PublishRefused", 81, Budget.NONE, "a destination does not take the result"),
    FailureClass("PublishFailed", 82, Budget.PROGRAM, "a destination cannot be reached"),
)

BY_EXIT_CODE = {failure.exit_code: failure for failure in FAILURE_CLASSES}
BY_NAME = {failure.name: failure for failure in FAILURE_CLASSES}
