"""Fields that an API server drops: found in its answers, left out of later writes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_operator.engine.dropped import TRY_AGAIN_AFTER, DroppedFields, dropped, kept

SENT = {"a": 1, "b": {"c": 2, "d": 3}, "e": [{"f": 4, "g": 5}, {"f": 6, "g": 7}]}


@pytest.mark.parametrize(
    ("stored", "missing"),
    [
        (SENT, set()),
        ({**SENT, "more": 1}, set()),
        ({**SENT, "a": 2}, set()),
        ({"a": 1, "b": SENT["b"]}, {("e",)}),
        ({**SENT, "b": {"d": 3}}, {("b", "c")}),
        ({**SENT, "e": [{"f": 4}, {"f": 6}]}, {("e", "[]", "g")}),
        ({**SENT, "b": {}, "e": []}, {("b", "c"), ("b", "d")}),
    ],
)
def test_what_an_answer_lacks_is_found_and_left_out(
    stored: dict[str, Any], missing: set[tuple[str, ...]]
) -> None:
    paths = dropped(SENT, stored)
    assert paths == missing
    assert dropped(kept(SENT, paths), stored) == frozenset()
    if not missing:
        assert kept(SENT, paths) == SENT


def test_it_is_told_once_and_tried_again_later() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    fields = DroppedFields(lambda: now)
    stored = {"a": 1, "e": SENT["e"]}
    assert fields.learn(SENT, stored) == {("b",)}
    assert fields.paths == {("b",)}
    now += TRY_AGAIN_AFTER - timedelta(seconds=1)
    assert fields.paths == {("b",)}
    now += timedelta(seconds=1)
    assert fields.paths == frozenset(), "somebody may have upgraded the CRD"
    assert fields.learn(SENT, stored) == frozenset(), "that was told"
    assert fields.paths == {("b",)}
    assert fields.learn(SENT, {"e": SENT["e"]}) == {("a",)}, "this was not"
