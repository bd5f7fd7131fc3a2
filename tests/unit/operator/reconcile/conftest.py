"""A world with one job."""

from __future__ import annotations

import pytest
from builders import KEY, make_spec
from fake_cluster import FakeCluster


@pytest.fixture
def world() -> FakeCluster:
    world = FakeCluster()
    world.add_job(KEY, make_spec())
    return world
