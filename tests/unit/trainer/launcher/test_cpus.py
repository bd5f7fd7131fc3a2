"""How many threads a rank may start: two pods on one node must not fight over the same cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune_trainer.container import available_cpus

SEEN = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        pytest.param(["100000 100000"], 1, id="version 2, one CPU"),
        pytest.param(["50000 100000"], 1, id="half a CPU is one thread"),
        pytest.param(["150000 100000"], min(2, SEEN), id="one and a half are two"),
        pytest.param(["max 100000"], SEEN, id="version 2, no limit"),
        pytest.param(["100000", "100000"], 1, id="version 1, one CPU"),
        pytest.param(["-1", "100000"], SEEN, id="version 1, no limit"),
        pytest.param([], SEEN, id="no such file"),
        pytest.param(["nonsense"], SEEN, id="a file of another kind"),
    ],
)
def test_a_container_uses_what_its_quota_allows(
    tmp_path: Path, files: list[str], cpus: int
) -> None:
    paths = []
    for number, text in enumerate(files):
        (tmp_path / str(number)).write_text(text + "\n")
        paths.append(str(tmp_path / str(number)))
    assert available_cpus([[str(tmp_path / "missing")], paths or ["/nowhere"]]) == cpus
