"""Known failures in the trainer: cause and hint, and the class of what nobody foresaw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from secrets_cases import SECRET

from finetune_trainer import outcome
from finetune_trainer.errors import BadData, CollectiveTimeout, failure_class
from finetune_trainer.explanation import explain

ECC = "CUDA error: uncorrectable ECC error encountered"
FULL = "OSError: [Errno 28] No space left on device"


@pytest.mark.parametrize(
    ("error", "name", "code"),
    [
        (RuntimeError(ECC), "HardwareFault", 77),
        (RuntimeError("CUDA error: out of memory"), "CudaOom", 71),
        (RuntimeError("… ] Timed out waiting 4000ms"), "Internal", 70),
        (AssertionError("Check batch related parameters. 7 != 4"), "ConfigInvalid", 64),
        (ModuleNotFoundError("No module named 'flash_attn'"), "Internal", 70),
        (PermissionError(13, "Permission denied", "/output/x"), "ConfigInvalid", 64),
    ],
)
def test_an_error_that_nobody_foresaw_has_the_class_of_its_signature(
    error: Exception, name: str, code: int
) -> None:
    assert (failure_class(error).name, failure_class(error).exit_code) == (name, code)


def test_a_failure_carries_signature_cause_and_hint() -> None:
    failure = outcome.failure_record(RuntimeError(ECC))
    assert (failure["class"], failure["exitCode"]) == ("HardwareFault", 77)
    assert failure["signature"] == "GpuEcc"
    assert "error correction" in failure["cause"]
    assert "spec.workers.affinity" in failure["hint"]
    assert failure["message"] == f"RuntimeError: {ECC}"


def test_who_raised_an_error_on_purpose_keeps_its_hint_and_class() -> None:
    error = CollectiveTimeout(f"this rank lost the others: NCCL error, {ECC}", hint="ask rank 3")
    failure = outcome.failure_record(error)
    assert (failure["class"], failure["hint"]) == ("CollectiveTimeout", "ask rank 3")
    assert failure["signature"] == "GpuEcc"


def test_an_error_raised_on_purpose_without_a_hint_gets_one() -> None:
    failure = outcome.failure_record(BadData("row 7: jinja2.exceptions.TemplateError: no"))
    assert failure["signature"] == "ChatTemplateRefused"
    assert "spec.model.chatTemplate" in failure["hint"]


def test_the_text_that_is_trusted_more_is_asked_first() -> None:
    failure: dict[str, Any] = {"class": "Internal"}
    explain(failure, ["nothing known"], [FULL], [ECC])
    assert (failure["signature"], failure["class"]) == ("DiskFull", "DiskFull")


def test_an_old_line_of_the_log_does_not_explain_an_unforeseen_error() -> None:
    failure = outcome.failure_record(KeyError("rows"), ["WARNING " + FULL])
    assert "signature" not in failure
    assert failure["class"] == "Internal"


def test_the_source_code_in_a_traceback_explains_nothing() -> None:
    try:
        raise KeyError("rows")  # No space left on device
    except KeyError as error:
        assert "signature" not in outcome.failure_record(error)


def test_the_cause_behind_an_error_explains_it() -> None:
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("cannot save") from error
    except RuntimeError as error:
        failure = outcome.failure_record(error)
    assert failure["signature"] == "DiskFull"


def test_no_secret_leaves_by_a_result_or_a_termination_message(tmp_path: Path) -> None:
    key = ["-----BEGIN PRIVATE KEY-----", SECRET, "-----END PRIVATE KEY-----"]
    error = BadData(f"https://me:{SECRET}@example.test answers no", f"token={SECRET}")
    result = outcome.failed("prepare", 0, error, [f"WARNING sent hf_{SECRET}", *key])
    outcome.report(result, tmp_path / "prepare.json", tmp_path / "termination")
    for path in (tmp_path / "prepare.json", tmp_path / "termination"):
        assert SECRET not in path.read_text()
        failure = json.loads(path.read_text())["failure"]
        assert failure["message"] == "https://[redacted]@example.test answers no"
        assert failure["lines"][0] == "WARNING sent [redacted]"
