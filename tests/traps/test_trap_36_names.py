"""Pods of a gang begin before the name of rank 0 is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import make_plan
from traps.ranks import begun_before_its_name
from unit.trainer.train.gangs import run_gang

from finetune_operator.objects.headless_service import build_headless_service


@pytest.mark.gang
def test_trap_36_a_rank_that_begins_before_its_name_waits_and_joins(tmp_path: Path) -> None:
    (seconds,) = run_gang(begun_before_its_name, 1, "tiny-a0-0.tiny", tmp_path)
    assert 1 <= seconds < 10


def test_trap_36_names_are_published_before_pods_are_ready() -> None:
    """A pod is ready when a probe has said so; ranks look for each other before that."""
    assert build_headless_service(make_plan())["spec"]["publishNotReadyAddresses"] is True
