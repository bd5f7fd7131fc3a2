"""The number of a stage's attempt: what the Job says is what the trainer is fenced by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import make_plan
from small_job import make_config

from finetune_operator.objects.export_job import build_export_job
from finetune_operator.objects.prepare_job import build_prepare_job
from finetune_operator.plan import TrainingPlan
from finetune_trainer import __main__ as entry
from finetune_trainer.errors import Preempted

BUILDERS: dict[str, Callable[[TrainingPlan, int], dict[str, Any]]] = {
    "prepare": build_prepare_job,
    "export": lambda plan, number: build_export_job(plan, number, 0),
}


@pytest.mark.parametrize("stage", BUILDERS)
def test_an_attempt_gives_way_to_one_whose_job_has_a_higher_number(
    tmp_path: Path, stage: str
) -> None:
    (tmp_path / "run.json").write_text(make_config(tmp_path).model_dump_json(by_alias=True))
    codes = []
    for number in (3, 10, 9):
        pod = BUILDERS[stage](make_plan(), number)["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        said = {var["name"]: var["value"] for var in container["env"] if "value" in var}
        environment = {
            **said,
            "FINETUNE_WORKSPACE": str(tmp_path / "ws"),
            "FINETUNE_RUN_JSON": str(tmp_path / "run.json"),
            "FINETUNE_TERMINATION_LOG": str(tmp_path / "termination"),
        }
        codes.append(entry.main(container["args"], environment))
    # There is neither a model nor a trained attempt, so those that may go on fail over that.
    assert [code == Preempted.failure.exit_code for code in codes] == [False, False, True]
    begun = (tmp_path / "ws/stages" / stage).iterdir()
    assert sorted(int(path.name) for path in begun) == [3, 9, 10]
