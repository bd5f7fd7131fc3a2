"""What the pods of a job are given, so that ranks find room and nobody prepares data twice; and
ranks that have no more than that."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import make_plan, make_spec
from tiny_models import save_tiny_model
from traps.ranks import in_pods
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import Job
from unit.trainer.train.tiny import run_config

from finetune_operator.objects.prepare_job import build_prepare_job
from finetune_operator.objects.train_job import build_train_job
from finetune_trainer.config import RunConfig


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


def mounted(pod: dict[str, Any], path: str) -> dict[str, Any]:
    (container,) = pod["containers"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == path]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
    return volume


def test_trap_37_shared_memory_is_a_bounded_part_of_the_pods_memory() -> None:
    for given, size in (({}, "1Gi"), ({"sharedMemory": "3Gi"}, "3Gi")):
        plan = make_plan(make_spec(workers={"count": 2, **given}))
        place = mounted(pod_of(build_train_job(plan, 0)), "/dev/shm")["emptyDir"]
        assert place == {"medium": "Memory", "sizeLimit": size}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two that train what one of them prepared, with no more to write to than their pods have."""
    model = save_tiny_model(tmp_path_factory.mktemp("model"))
    workspace = tmp_path_factory.mktemp("workspace")
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"{n}?"},
                {"role": "assistant", "content": "Ah."},
            ]
        }
        for n in range(20)
    ]
    (workspace / "rows.jsonl").write_text("".join(f"{json.dumps(chat)}\n" for chat in chats))
    source = {"name": "train", "field": "spec.data.train[0]", "path": str(workspace / "rows.jsonl")}
    training = {"epochs": 1, "microBatchSize": 1, "accumulation": 1, "learningRate": 0.01}
    settings = {
        "model": {"path": str(model)},
        "data": {"train": [source], "sequenceLength": 64, "evalFraction": 0},
        "method": {},
        "training": training,
        "checkpoint": {"everySteps": 2},
    }
    prepare = RunConfig.model_validate(run_config(**settings))
    job = Job([], config={**settings, "training": {**training, "steps": 3}})
    home = tmp_path_factory.mktemp("home")
    found: list[dict[str, Any]] = run_gang(in_pods, 2, job, prepare, workspace, home)
    return found


@pytest.mark.gang
def test_trap_37_batches_take_no_shared_memory(ranks: list[dict[str, Any]]) -> None:
    """There is one page of it, into which two tensors of a batch would not fit."""
    assert [rank["shared_bytes"] for rank in ranks] == [4096, 4096]
    assert len(ranks[0]["steps"]) == 3


@pytest.mark.gang
def test_trap_38_what_one_pod_prepared_is_mapped_by_every_rank(ranks: list[dict[str, Any]]) -> None:
    """They train without the rows and without a tokenizer, and share the pages of the files."""
    for workers in (1, 4):
        job = build_prepare_job(make_plan(make_spec(workers={"count": workers})), 0)["spec"]
        assert (job.get("completions", 1), job.get("parallelism", 1)) == (1, 1)
    assert ranks[0]["prepared"]["data"]["kept"] == 20
    steps = ranks[0]["steps"]
    assert len(steps) == 3 and all(step["loss"] > 0 for step in steps)
    first, second = (rank["mapped"] for rank in ranks)
    assert first == second and {"input_ids.npy", "supervised.npy"} <= set(first)
    assert {mode for mode, _ in first.values()} == {"r--s"}, "read-only, shared"


def test_trap_s22_the_root_is_read_only_and_the_home_has_a_place() -> None:
    for job in (build_prepare_job(make_plan(), 0), build_train_job(make_plan(), 0)):
        pod = pod_of(job)
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        home = {entry["name"]: entry.get("value") for entry in container["env"]}["HOME"]
        assert "emptyDir" in mounted(pod, home)


@pytest.mark.gang
def test_trap_s22_a_job_is_prepared_and_trained_on_a_read_only_root(
    ranks: list[dict[str, Any]],
) -> None:
    for rank in ranks:
        assert rank["refused"] == [True] * 3, "nor where the code is"
        assert rank["checkpoints"] == ["step-2"]
