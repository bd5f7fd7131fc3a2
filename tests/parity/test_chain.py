"""A job that goes on from another one's adapter or checkpoint: exactly what plain peft would do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parity.reference import train_plainly
from peft import PeftModel
from tiny_models import make_tokenizer
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import Job
from unit.trainer.train.stretches import whole
from unit.trainer.train.tiny import row_lengths, tiny_llama
from unit.trainer.train.workers import export, train

from finetune_trainer.config import SourceJob
from finetune_trainer.model import load_model
from finetune_trainer.prepare import manifest as manifests
from finetune_trainer.prepare.ancestor import rebuild

STEPS = 8


def job(method: dict[str, Any], start: Path | None = None, rows: int = 9) -> Job:
    return Job(
        lengths=row_lengths(rows, 11),
        start=start,
        config={
            "zeroStage": 2,
            "method": method,
            "training": {
                "steps": STEPS,
                "accumulation": 2,
                "learningRate": 0.1,
                "maxGradNorm": 0.0,
                "optimizer": {"type": "SGD"},
            },
            "checkpoint": {"everySteps": 4},
        },
    )


FIRST, SECOND = {"lora": {"rank": 4, "alpha": 8}}, {"lora": {"rank": 2, "alpha": 8}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a job that has ended: base model, adapter, and real ZeRO checkpoints."""
    workspace = tmp_path_factory.mktemp("first")
    base = workspace / "model"
    tiny_llama().save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    digest = manifests.seal(base, "", {"dtype": "float32"})["digest"]
    run_gang(export, 2, job(FIRST), workspace / "attempts/0")
    run_gang(train, 2, job(FIRST), workspace)
    for path in workspace.glob("attempts/0/checkpoints/step-*/manifest.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "identity": {"model": digest, "method": FIRST}}))
    return workspace


def by_plain_peft(files: Path, folder: Path) -> Path:
    base = load_model(files / "model", torch.float32)
    model: Any = PeftModel.from_pretrained(base, str(files / "attempts/0/adapter"))
    model.merge_and_unload().save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: p.data for name, p in load_model(folder, torch.float32).named_parameters()}


def test_an_adapter_that_is_trained_on_equals_plain_peft(files: Path, tmp_path: Path) -> None:
    plain = by_plain_peft(files, tmp_path / "plain")
    source = SourceJob(name="first", kind="Adapter", base_path=str(files / "model"))
    rebuild(files / "attempts/0/adapter", source, tmp_path / "ours")
    before, ours, theirs = weights(files / "model"), weights(tmp_path / "ours"), weights(plain)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert max(float((ours[name] - before[name]).abs().max()) for name in ours) > 1e-3

    expected = train_plainly(job(SECOND, plain, rows=4), 2)
    found = run_gang(train, 2, job(SECOND, tmp_path / "ours", rows=4))
    for step, loss in zip(found[0]["steps"], expected["losses"], strict=True):
        assert step["loss"] == pytest.approx(loss, rel=1e-6)
    masters = whole(found, "masters")
    assert masters.keys() == expected["masters"].keys()
    for name, weight in expected["masters"].items():
        torch.testing.assert_close(masters[name], weight, rtol=0, atol=1e-6)


def test_a_checkpoint_of_two_ranks_is_the_model_of_that_step(files: Path, tmp_path: Path) -> None:
    rebuild(files, SourceJob(name="first", kind="Checkpoint", step=4), tmp_path / "ours")
    ours, last = weights(tmp_path / "ours"), weights(by_plain_peft(files, tmp_path / "plain"))
    before = weights(files / "model")
    # On the way from the base to what the adapter was saved from.
    assert max(float((ours[name] - last[name]).abs().max()) for name in last) > 1e-4
    assert max(float((ours[name] - before[name]).abs().max()) for name in last) > 1e-4
