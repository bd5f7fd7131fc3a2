"""Errors of the stages, each bound to the failure class (and so to the exit code) it ends with."""

# ruff: noqa: N818 - the names are those of the failure classes

from __future__ import annotations

import errno
from typing import ClassVar

from finetune_trainer.config import ConfigError
from finetune_trainer.explanation import class_of_unforeseen
from finetune_trainer.failures import BY_NAME, FailureClass


class StageError(Exception):
    """A stage cannot go on. ``message`` names the place and the fault, ``hint`` what to do."""

    failure: ClassVar[FailureClass] = BY_NAME["Internal"]

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)  # both, so that the error survives a process boundary
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class ConfigInvalid(StageError):
    failure = BY_NAME["ConfigInvalid"]


class BadData(StageError):
    failure = BY_NAME["BadData"]


class ModelLoad(StageError):
    failure = BY_NAME["ModelLoad"]


class NoValidCheckpoint(StageError):
    failure = BY_NAME["NoValidCheckpoint"]


class NonFinite(StageError):
    failure = BY_NAME["NonFinite"]


class LossSpike(StageError):
    failure = BY_NAME["LossSpike"]


class GateFailed(StageError):
    failure = BY_NAME["GateFailed"]


class PublishRefused(StageError):
    failure = BY_NAME["PublishRefused"]


class PublishFailed(StageError):
    failure = BY_NAME["PublishFailed"]


class SelfTestFailed(StageError):
    failure = BY_NAME["SelfTestFailed"]


class DiskFull(StageError):
    failure = BY_NAME["DiskFull"]


class CollectiveTimeout(StageError):
    failure = BY_NAME["CollectiveTimeout"]


class Preempted(StageError):
    failure = BY_NAME["Preempted"]


class Hang(StageError):
    failure = BY_NAME["Hang"]


class HardwareFault(StageError):
    failure = BY_NAME["HardwareFault"]


class Rendezvous(StageError):
    failure = BY_NAME["Rendezvous"]


def failure_class(error: BaseException) -> FailureClass:
    """The class of any error: as raised, else as its text is known, else ``Internal``."""
    if isinstance(error, StageError):
        return error.failure
    if isinstance(error, ConfigError):
        return ConfigInvalid.failure
    if _is_full_disk(error):
        return DiskFull.failure
    # By name: importing torch takes seconds, and the launcher must start at once.
    if type(error).__name__ == "OutOfMemoryError":
        return BY_NAME["CudaOom"]
    return class_of_unforeseen(error)


def message_of(error: BaseException) -> str:
    """What happened, in one sentence."""
    if isinstance(error, StageError):
        return error.message
    if failure_class(error) is DiskFull.failure:
        return f"no space is left on the claim of spec.storage: {error}"
    return f"{type(error).__name__}: {error}"


def hint_of(error: BaseException) -> str | None:
    """What the user can do about it, if the raising code knew."""
    if isinstance(error, StageError):
        return error.hint
    if failure_class(error) is DiskFull.failure:
        return "enlarge the claim of spec.storage, or free space on it"
    return None


def _is_full_disk(error: BaseException) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError):
        return error.errno in full
    # safetensors keeps no more than the text of the system's error. By name, as above.
    wrapped = type(error).__name__ == "SafetensorError"
    return wrapped and any(f"(os error {number})" in str(error) for number in full)


def first_line(error: BaseException) -> str:
    """What an error says, without what libraries add below; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
