"""Ratings by people, for tests of what they decide."""

from __future__ import annotations

import json
from typing import Any

from builders import UID, make_spec

from finetune_operator.api.blinding import tuned_first
from finetune_operator.api.types import HumanEvaluation

BUNDLE = "sha256:" + "ab" * 32
ITEMS = 10
FIRST = tuned_first(UID, 42, ITEMS)
ASKED: dict[str, Any] = {"generation": {}, "human": {}}
GATE = {"human": {"minWinRate": "0.6", "minRatings": 10, "minRaters": 2}}
NAME = "demo-ratings"
TOLD = HumanEvaluation(
    uri=f"pvc://work/team-a/{UID}/output/rating",
    bundle=BUNDLE, items=ITEMS, same=2, config_map=NAME,
)  # fmt: skip


def spec(**changes: Any) -> dict[str, Any]:
    return make_spec(evaluation=ASKED, gate=GATE, **changes)


def sheet(rater: str, wins: int, count: int = ITEMS, uid: str = UID, bundle: str = BUNDLE) -> str:
    """The first ``wins`` items are won by the tuned model, the others lost."""
    first = tuned_first(uid, 42, ITEMS)
    ratings = {
        str(item): "A" if (item in first) == (item <= wins) else "B" for item in range(1, count + 1)
    }
    return json.dumps({"bundle": bundle, "rater": rater, "ratings": ratings})


RATING = {"bundle": BUNDLE, "items": ITEMS, "same": 2}
