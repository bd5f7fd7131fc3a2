"""What the pods of a job are given, so that ranks find room and nobody prepares data twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from builders import make_plan, make_spec
from unit.trainer.train.tiny import random_rows, write_rows

from finetune_operator.objects.prepare_job import build_prepare_job
from finetune_operator.objects.train_job import build_train_job
from finetune_trainer.prepare.store import PackedDataset


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


def test_trap_38_one_pod_prepares_and_every_rank_maps_what_it_wrote(tmp_path: Path) -> None:
    job = build_prepare_job(make_plan(), 0)["spec"]
    assert (job.get("completions", 1), job.get("parallelism", 1)) == (1, 1)
    write_rows(tmp_path / "rows", random_rows(1, [[9], [4]]))
    data = PackedDataset(tmp_path / "rows")
    assert isinstance(data._input_ids, np.memmap) and isinstance(data._supervised, np.memmap)
    assert not data._input_ids.flags.writeable


def test_trap_s22_the_root_is_read_only_and_caches_have_a_place() -> None:
    for job in (build_prepare_job(make_plan(), 0), build_train_job(make_plan(), 0)):
        pod = pod_of(job)
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        home = {entry["name"]: entry.get("value") for entry in container["env"]}["HOME"]
        assert "emptyDir" in mounted(pod, home)
