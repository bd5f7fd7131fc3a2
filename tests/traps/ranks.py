"""What the ranks of a gang do for the traps that need one."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from unit.trainer.self_test.ranks import loop_of
from unit.trainer.train.jobs import TIMEOUT, Job, built, joined, train_rows
from unit.trainer.train.stretches import watch_first_gradient
from unit.trainer.train.workers import train_from_folder

from finetune_trainer import engine as engines
from finetune_trainer import evaluate as evaluation
from finetune_trainer import session, shards
from finetune_trainer.batches import collate
from finetune_trainer.config import RunConfig
from finetune_trainer.errors import StageError
from finetune_trainer.evaluate import evaluate
from finetune_trainer.loss import loss_sum
from finetune_trainer.prepare import stage
from finetune_trainer.rendezvous import Place

EXCHANGES = ("all_reduce", "all_gather_object", "broadcast_object_list", "barrier")
GRADIENTS_WAIT = timedelta(seconds=0.5)
SLOW_SECONDS = 1.0


def look(place: Place, job: Job) -> dict[str, Any]:
    """A gathered model, a save and an evaluation in which one rank is slow, and the threads that
    talk to other ranks in a save beside the training."""
    gang = joined(place)
    found: dict[str, Any] = {}
    whole, _ = loop_of(replace(job, config={**job.config, "zeroStage": 1}), gang)
    loop, _ = loop_of(job, gang)
    held = [p.numel() for p in loop.engine.module.parameters()]
    gathered = loop.engine.gather_weights(trainable_only=False)
    found["gathered"] = sum(weight.numel() for weight in gathered.values())
    found["held"] = (sum(held), sum(p.numel() for p in loop.engine.module.parameters()))
    with _one_slow_rank(place, (shards, "write")):
        loop.checkpoints.save(loop.engine, 1, {})
    found["saved"] = [published.step for published in loop.checkpoints.published]
    with _one_slow_rank(place, (evaluation, "losses_and_hits")):
        scored = evaluate(
            whole.engine, gang, whole.train_rows, micro_batch_size=2, logits_to_keep=True
        )
    assert scored is not None
    found["tokens"] = scored.tokens
    callers: list[str] = []
    for name in EXCHANGES:
        setattr(distributed, name, _watched(getattr(distributed, name), callers))
    for step in (2, 3):
        loop.checkpoints.begin(loop.engine, step, {})
        loop.checkpoints.finish()
    found["callers"] = callers
    return found


@contextmanager
def _one_slow_rank(place: Place, where: tuple[Any, str]) -> Iterator[None]:
    """The last rank takes longer for a function than the group of the gradients waits."""
    module, name = where
    work = getattr(module, name)

    def slow(*arguments: Any, **rest: Any) -> Any:
        setattr(module, name, work)
        if place.rank == place.world_size - 1:
            time.sleep(SLOW_SECONDS)
        return work(*arguments, **rest)

    group = distributed.distributed_c10d._get_default_group()
    usual = timedelta(seconds=TIMEOUT)
    distributed.barrier()
    setattr(module, name, slow)
    distributed.distributed_c10d._set_pg_timeout(GRADIENTS_WAIT, group)
    yield
    distributed.distributed_c10d._set_pg_timeout(usual, group)
    assert getattr(module, name) is work, "it was called"


def _watched(exchange: Any, callers: list[str]) -> Any:
    def call(*arguments: Any, **rest: Any) -> Any:
        callers.append(threading.current_thread().name)
        return exchange(*arguments, **rest)

    return call


class Misspelt(dict[str, Any]):
    """Settings whose reader meant ``gradient_clipping`` and whose writer missed a letter."""

    def __getitem__(self, key: str) -> Any:
        return 0.5 if key == "gradient_clipping" else super().__getitem__(key)


def _misspelt(job: Job, place: Place) -> str | None:
    intended = engines.deepspeed_config

    def config(*arguments: Any, **rest: Any) -> dict[str, Any]:
        settings = intended(*arguments, **rest)
        return Misspelt({**settings, "gradient_clippping": settings.pop("gradient_clipping")})

    engines.deepspeed_config = config
    try:
        built(job, job.run_config(place.world_size))
    except (StageError, KeyError) as error:
        return str(error)
    finally:
        engines.deepspeed_config = intended
    return None


def alone(place: Place, job: Job) -> dict[str, Any]:
    """What a misspelt setting leads to, and the rates that the optimizer got and that were told."""
    gang = joined(place)
    misspelt = _misspelt(job, place)
    loop, _ = loop_of(job, gang)
    seen: list[float] = []
    step = loop.engine.step

    def watched(rate: float) -> Any:
        seen.append(rate)
        return step(rate)

    loop.engine.step = watched  # type: ignore[method-assign]
    loop.run()
    assert torch.isfinite(next(loop.engine.module.parameters())).all()
    steps = loop.reporter.steps  # type: ignore[attr-defined]
    told = [step["learningRate"] for step in steps]
    return {"misspelt": misspelt, "set": seen, "told": told, "state": loop.state.content()}


def without_compilers(place: Place, job: Job, tools: Path) -> dict[str, Any]:
    """Join and train a step where ``tools`` is all that there is to compile with."""
    os.environ["PATH"] = str(tools)
    for name in ("CC", "CXX", "CUDA_HOME"):
        os.environ.pop(name, None)
    loop, _ = loop_of(job, joined(place))
    _, outcome = loop.train_window(loop.windows[0], 0.01)
    return {"applied": outcome is not None and outcome.applied}


NEW_MOUNTS, NEW_USER, BIND, PRIVATE = 0x20000, 0x10000000, 0x1000, 0x44000
REMOUNT_READ_ONLY = 0x20 | BIND | 0x1


def _system(function: str, *arguments: Any) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments):
        raise OSError(ctypes.get_errno(), function)


def _own_mounts() -> None:
    _system("unshare", NEW_MOUNTS | (NEW_USER if os.geteuid() else 0))
    _system("mount", b"none", b"/", None, PRIVATE, None)


def begun_before_its_name(place: Place, name: str, folder: Path) -> float:
    """Join under a name that the system knows only a second later. Returns the seconds it took."""
    _own_mounts()
    hosts, order = folder / "hosts", folder / "nsswitch.conf"
    hosts.write_text("127.0.0.1 localhost\n")
    order.write_text("hosts: files\n")
    for file in (hosts, order):
        _system("mount", bytes(file), b"/etc/" + file.name.encode(), None, BIND, None)
    began = time.monotonic()
    appears = threading.Timer(1.0, hosts.write_text, [f"127.0.0.1 localhost {name}\n"])
    appears.start()
    gang = joined(replace(place, master_addr=name))
    assert gang.sums(2.0) == [2.0]
    return time.monotonic() - began


def in_pods(
    place: Place, job: Job, prepare: RunConfig, workspace: Path, home: Path
) -> dict[str, Any]:
    """Prepare on rank 0, take away what it read, and train with a checkpoint on all, where nothing
    but the home, the workspace and the gang's own folder can be written to, and shared memory is
    one page.

    Brings home what was prepared, the steps, the prepared files as this rank maps them, and where
    it could not write.
    """
    _own_mounts()
    os.environ["HOME"] = str(home)
    own = (home, workspace, Path(tempfile.gettempdir()))
    others = Path(__file__).parent, Path(session.__file__).parent, Path("/")
    for folder in (*own, *others[:-1]):
        _system("mount", bytes(folder), bytes(folder), None, BIND, None)
    for folder in others:
        _system("mount", b"none", bytes(folder), None, REMOUNT_READ_ONLY, None)
    _system("mount", b"none", b"/dev/shm", b"tmpfs", 0, b"size=4096")
    gang = joined(place)
    prepared = None
    if gang.is_first:
        prepared = stage.run(prepare, workspace)
        for source in prepare.data.train:
            Path(source.path).unlink()
        for file in (workspace / "model").glob("*token*"):
            file.unlink()
    gang.barrier()
    kept: list[Any] = []
    open_rows = session.open_rows

    def watched(folder: Path) -> Any:
        kept.append(open_rows(folder))
        return kept[-1]

    session.open_rows = watched
    trained = train_from_folder(place, job, workspace, gang)
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    return {
        "prepared": prepared,
        "steps": trained["steps"],
        "mapped": {
            Path(fields[5]).name: (fields[1], fields[4])
            for fields in mapped
            if len(fields) > 5 and fields[5].startswith(f"{workspace}/data/")
        },
        "shared_bytes": shutil.disk_usage("/dev/shm").total,
        "refused": [not _may_write(folder) for folder in others],
        "checkpoints": sorted(p.name for p in workspace.glob("attempts/0/checkpoints/*")),
    }


def _may_write(folder: Path) -> bool:
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        assert error.errno == errno.EROFS, error
        return False
    return True


def windows(place: Place, job: Job, rows: dict[str, tuple[list[int], ...]]) -> dict[str, Any]:
    """The gradient of each window, by its name: ``rows`` are its micro-batches on each rank, of one
    row each. No weight changes between them."""
    import deepspeed.accelerator

    deepspeed.accelerator.get_accelerator().is_fp16_supported = lambda: True
    joined(place)
    engine = built(job, job.run_config(place.world_size))
    if engine.precision == "FP16":
        engine.restore_scaler({"cur_scale": 1.0})
    data = train_rows(Path(tempfile.mkdtemp()) / "train", job)
    told = {}
    for name, by_rank in rows.items():
        told[name] = watch_first_gradient(engine)
        for row in by_rank[place.rank]:
            engine.backward(loss_sum(engine, collate([data.row(row)]), logits_to_keep=True))
        assert engine.step(0.0).applied
    return told


def buckets(place: Place, job: Job) -> None:
    """Build an engine and take two steps with 64 MB that are not in use yet."""
    gang = joined(place)
    for allowed in (None, 64 << 20):  # the first engine brings what a process needs once
        if allowed is not None:
            used = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
            assert used is not None
            limit = int(used[1]) * 1024 + allowed
            resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
        loop, _ = loop_of(job, gang)
        for window in (loop.windows[0], loop.windows[1]):
            loop.train_window(window, 0.01)
