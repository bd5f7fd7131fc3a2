"""Known failures: each is found in what is really printed, and nowhere else."""

from __future__ import annotations

import re
import time
from pathlib import Path
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest
import yaml
from failure_texts import Text, texts

from finetune_operator.api.cluster_signatures import CLUSTER_SIGNATURES
from finetune_operator.api.failures import BY_NAME
from finetune_operator.api.signatures.signature import MAX_LINE, MAX_LINES, Signature, find
from finetune_operator.api.signatures.table import SIGNATURES
from finetune_operator.api.types import Reason

ROOT = Path(__file__).resolve().parents[4]
ALL = (*SIGNATURES, *CLUSTER_SIGNATURES)
FIELDS = {
    re.sub(r"\[\]|\{\}", "", line.split()[0])
    for line in (ROOT / "tests/golden/api_fields.txt").read_text().splitlines()
    if line.startswith("spec.")
}


def named(signature: Signature) -> str:
    return signature.name


@pytest.mark.parametrize("text", texts("known"), ids=lambda text: text.name)
def test_a_text_of_a_library_is_recognised(text: Text) -> None:
    found = find(SIGNATURES, text.lines)
    assert found is not None and found.name == text.signature, text.source


@pytest.mark.parametrize("text", texts("cluster"), ids=lambda text: text.name)
def test_a_text_of_kubernetes_is_recognised(text: Text) -> None:
    found = find(CLUSTER_SIGNATURES, text.lines)
    assert found is not None and found.name == text.signature, text.source


@pytest.mark.parametrize("text", texts("unrelated"), ids=lambda text: text.name)
def test_what_is_no_known_failure_is_not_taken_for_one(text: Text) -> None:
    assert find(ALL, text.lines) is None, text.source


def test_every_signature_has_a_text_and_every_text_a_signature() -> None:
    assert {text.signature for text in texts("known")} == {known.name for known in SIGNATURES}
    names = {known.name for known in CLUSTER_SIGNATURES}
    assert {text.signature for text in texts("cluster")} == names


def test_there_are_enough_of_them() -> None:
    assert len(SIGNATURES) >= 30
    assert len(texts("unrelated")) >= 30
    assert len({known.name for known in ALL}) == len(ALL)


@pytest.mark.parametrize("known", SIGNATURES, ids=named)
def test_a_signature_of_a_pod_has_a_class_of_the_trainer(known: Signature) -> None:
    assert {known.failure_class, *known.also} <= set(BY_NAME)


@pytest.mark.parametrize("known", CLUSTER_SIGNATURES, ids=named)
def test_a_signature_of_the_cluster_has_a_reason_as_class(known: Signature) -> None:
    assert known.failure_class in set(Reason)


@pytest.mark.parametrize("known", ALL, ids=named)
def test_a_signature_speaks_to_the_user(known: Signature) -> None:
    assert re.fullmatch(r"[A-Z][A-Za-z0-9]{3,40}", known.name)
    assert known.cause[0].isupper() or known.cause.startswith(("gloo", "cu"))
    assert known.cause.endswith(".")
    assert len(known.hint) > 20 and not known.hint.endswith(".")
    assert len(known.cause) + len(known.hint) < 600, "the termination message is small"
    assert known.source


@pytest.mark.parametrize("known", ALL, ids=named)
def test_a_hint_names_fields_and_values_that_exist(known: Signature) -> None:
    for field in re.findall(r"\bspec\.[A-Za-z.]+[A-Za-z]", known.hint):
        assert re.sub(r"(limits|requests)\.memory$", r"\1", field) in FIELDS, field
    values = yaml.load((ROOT / "helm/finetune-operator/values.yaml").read_text(), yaml.CSafeLoader)
    for path in re.findall(r"chart's (trainer\.[A-Za-z.]+[A-Za-z])", known.hint):
        place: Any = values
        for key in path.split("."):
            assert key in place, path
            place = place[key]


@pytest.mark.parametrize("known", ALL, ids=named)
def test_a_pattern_cannot_run_away(known: Signature) -> None:
    """No repeat without a bound, none inside another: the work is linear in the line."""
    for repeat in repeats(parser.parse(known.pattern), inside=False):
        assert repeat <= 400, known.pattern


def repeats(pattern: Any, *, inside: bool) -> list[int]:
    found = []
    for kind, argument in pattern:
        if str(kind) in ("MAX_REPEAT", "MIN_REPEAT"):
            _, most, repeated = argument
            many = int(most) > 1
            assert not (inside and many), "a repeat inside a repeat"
            found += [int(most), *repeats(repeated, inside=inside or many)]
        elif str(kind) == "SUBPATTERN":
            found += repeats(argument[-1], inside=inside)
        elif str(kind) == "BRANCH":
            for branch in argument[1]:
                found += repeats(branch, inside=inside)
    return found


HOSTILE = (
    "a",
    " ",
    "(",
    "CUDA error ",
    "NCCL WARN connect to ",
    "spec.",
    "failed to pull ",
    "0x1 ",
)


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_log_costs_little(piece: str) -> None:
    log = [(piece * MAX_LINE)[: MAX_LINE * 2]] * (MAX_LINES * 2)
    began = time.process_time()
    find(ALL, log)
    assert time.process_time() - began < 20


def test_only_the_last_lines_count() -> None:
    old = ["OSError: [Errno 28] No space left on device", *["fine"] * MAX_LINES]
    assert find(SIGNATURES, old) is None
    assert find(SIGNATURES, old[:-1]) is not None


def test_what_the_trainer_survived_does_not_explain_how_a_rank_died() -> None:
    skipped = "loss or gradients are not finite at step 17: loss nan, gradient norm nan"
    moment = "2026-11-23 12:00:00,100"
    log = [
        f"{moment} WARNING finetune_trainer.loop: {skipped}; not applied; packed rows 3, 9",
        f"{moment} WARNING finetune_trainer.reporter: cannot write metrics.jsonl: [Errno 28] No "
        "space left on device",
        "the rank ended with code 1 and said nothing",
    ]
    assert find(SIGNATURES, log) is None, "else it would be no failure to try again after"
    ended = find(SIGNATURES, [f"{moment} ERROR finetune_trainer.rank: {skipped}"])
    assert ended is not None and ended.name == "NotFinite"


def test_a_failure_that_says_what_it_is_is_not_told_to_be_something_else() -> None:
    full = ["OSError: [Errno 28] No space left on device"]
    assert find(SIGNATURES, full, "DiskFull") is not None
    assert find(SIGNATURES, full, "BadData") is not None  # it may explain this one
    assert find(SIGNATURES, full, "NonFinite") is None


def test_a_cause_stands_before_what_follows_from_it() -> None:
    log = [
        "[rank0]:[E ProcessGroupNCCL.cpp:607] Watchdog caught collective operation timeout",
        "RuntimeError: CUDA error: uncorrectable ECC error encountered",
    ]
    found = find(SIGNATURES, log)
    assert found is not None and found.name == "GpuEcc"
