"""Secrets give way to a mark; what only looks like one stays."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from secrets_cases import HARMLESS, KEY_LINES, SECRET, SECRETS, VALUES

from finetune_operator.api.redaction import MARK, Redactor, redact


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_gives_way_to_a_mark(text: str) -> None:
    cleared = redact(text)
    assert MARK in cleared
    for value in VALUES:
        assert value not in cleared
    assert cleared.count("\n") == text.count("\n")


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("text", [*SECRETS, *HARMLESS])
def test_what_was_cleared_stays_as_it_is(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(st.lists(st.sampled_from([*SECRETS, *HARMLESS, "\n", " ", "=", "'", '"', ":"]), max_size=6))
def test_the_second_wall_never_changes_what_the_first_one_cleared(parts: list[str]) -> None:
    once = redact("".join(parts))
    assert redact(once) == once


def test_a_secret_right_behind_another_goes_too() -> None:
    assert redact(f"AKIAIOSFODNN7EXAMPLEapi_org_{SECRET}") == MARK * 2


def test_what_tells_the_kind_is_kept() -> None:
    assert redact(f"https://user:{SECRET}@example.test/x") == f"https://{MARK}@example.test/x"
    assert redact(f"HF_TOKEN={SECRET} set") == f"HF_TOKEN={MARK} set"


def test_a_key_that_spans_lines_is_followed_to_its_end() -> None:
    lines = ["before", "-----BEGIN PRIVATE KEY-----", *KEY_LINES, "-----END PRIVATE KEY-----"]
    redactor = Redactor()
    cleared = [redactor.line(line) for line in [*lines, "step 4 of 9"]]
    assert cleared == ["before", *[MARK] * 5, "step 4 of 9"]


def test_a_torn_key_does_not_swallow_the_rest_of_the_log() -> None:
    redactor = Redactor()
    lines = ["-----BEGIN PRIVATE KEY-----", KEY_LINES[0], "step 4: loss 1.2", "step 5: loss 1.1"]
    assert [redactor.line(line) for line in lines] == [MARK, MARK, *lines[2:]]


HOSTILE = ("a", "http://", "token=", "-----BEGIN A-----", "eyJ", "hf_", "?sig=", "bearer ", "\\")


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_line_costs_little(piece: str) -> None:
    line = (piece * 8192)[:8192]
    began = time.process_time()
    redact(line)
    assert time.process_time() - began < 2
