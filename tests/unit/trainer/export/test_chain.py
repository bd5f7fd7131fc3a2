"""From one job to the next: its adapter or model, its lock and lineage, its result taken again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_job
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_model

from finetune_trainer import export, reuse
from finetune_trainer.config import Lock, Lora, RunConfig
from finetune_trainer.errors import ModelLoad, StageError
from finetune_trainer.lock import LOCK, read_lock
from finetune_trainer.model import load_model, lora_config
from finetune_trainer.prepare import stage

pytestmark = pytest.mark.filterwarnings("error:Unable to fetch remote file")

METRICS = {"evalLoss": 0.9, "baseline": {"evalLoss": 2.2}}
LINEAGE = {"jobs": [{"job": "bot", "step": 10, "data": "sha256:d"}], "base": "hf://org/small"}
Change = Callable[[Path], None]


def make_config(folder: Path, name: str = "bot", **changes: Any) -> RunConfig:
    job = {"namespace": "team", "name": name, "uid": f"uid-of-{name}"}
    return small_job.make_config(folder, job=job, **changes)


def lock_of(told: dict[str, Any]) -> Lock:
    made = {"model": told["model"]["digest"], "data": told["data"]["digest"]}
    rest = {"digest": "sha256:lock", "spec": "sha256:s", "image": "trainer:1", "seed": 42}
    return Lock.model_validate({**rest, **made, "versions": told["versions"]})


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Lock]:
    """A job that has published, with a stand-in for training."""
    folder = tmp_path_factory.mktemp("first")
    save_tiny_model(folder / "source")
    rows = [{"prompt": f"What is {n}?", "response": "A gang."} for n in range(10)]
    (folder / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    lock = lock_of(stage.run(make_config(folder), folder / "ws"))
    torch.manual_seed(1)
    base = load_model(folder / "ws/model", torch.float32)
    model = get_peft_model(base, lora_config(Lora(rank=4)))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder / "ws/attempts/0/adapter")
    result = {"step": 10, "steps": 10, "metrics": METRICS, "checkpoints": []}
    (folder / "ws/attempts/0/result.json").write_text(json.dumps(result))
    export.run(make_config(folder), folder / "ws", folder / "output", 0, lock=lock)
    return folder, lock


@pytest.fixture
def folder(first: tuple[Path, Lock], tmp_path: Path) -> Path:
    shutil.copytree(first[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def second(folder: Path, kind: str, place: str, **job: Any) -> RunConfig:
    source = {"name": "bot", "kind": kind, "lineage": LINEAGE, **job}
    return make_config(folder, "next", model={"path": str(folder / place), "job": source})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: p.data for name, p in load_model(folder, torch.float32).named_parameters()}


def from_adapter(folder: Path) -> RunConfig:
    return second(folder, "Adapter", "output/adapter", basePath=str(folder / "ws/model"))


def test_an_adapter_is_merged_into_its_base_as_peft_does_it(folder: Path) -> None:
    told = stage.run(from_adapter(folder), folder / "next")
    base: Any = load_model(folder / "ws/model", torch.float32)
    plain = PeftModel.from_pretrained(base, str(folder / "output/adapter")).merge_and_unload()
    found = weights(folder / "next/model")
    assert all(torch.equal(found[name], p.data) for name, p in plain.named_parameters())
    manifest = json.loads((folder / "next/model/manifest.json").read_text())
    assert (manifest["source"], manifest["lineage"]) == ("job://bot", LINEAGE)
    again = stage.run(from_adapter(folder), folder / "again")
    assert again["model"]["digest"] == told["model"]["digest"]
    assert again["data"]["digest"] == told["data"]["digest"]


def test_a_small_change_survives_a_base_of_16_bits(folder: Path) -> None:
    base, target = folder / "ws/model", folder / "output/adapter/adapter_model.safetensors"
    load_model(base, torch.bfloat16).save_pretrained(base)
    manifest = json.loads((base / "manifest.json").read_text())
    (base / "manifest.json").write_text(json.dumps({**manifest, "dtype": "bfloat16"}))
    save_file({name: 1e-3 * t for name, t in load_file(target).items()}, target)
    stage.run(from_adapter(folder), folder / "next")
    found, before = weights(folder / "next/model"), weights(base)
    name = "model.layers.0.mlp.up_proj.weight"
    change = (found[name] - before[name]).abs()
    assert 0 < float(change.max()) < float(before[name].abs().max()) * 2**-9
    assert float((change > 0).float().mean()) > 0.9, "16 bits would lose most of so small changes"
    assert json.loads((folder / "next/model/manifest.json").read_text())["dtype"] == "bfloat16"


def test_what_is_published_beside_a_model_is_no_part_of_it(folder: Path) -> None:
    config = second(folder, "Merged", "output/merged")
    told = stage.run(config, folder / "next")
    assert not (folder / "next/model" / LOCK).exists()
    assert not (folder / "next/model/data-report.json").exists()
    for name in (LOCK, "data-report.json"):
        (folder / "output/merged" / name).write_text("{}")
    assert stage.run(config, folder / "again")["model"]["digest"] == told["model"]["digest"]


def resized(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file({name: tensor[:2].clone() for name, tensor in load_file(file).items()}, file)


def renamed(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name.replace("layers.0", "layers.7")] = tensors.pop(name)
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(resized, r"does not fit its base: .* is \[2, 32\] and has to be", id="size"),
        pytest.param(renamed, "does not fit its base: it lacks", id="layers"),
        pytest.param(shutil.rmtree, "the adapter of job bot cannot be read", id="gone"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(folder: Path, damage: Change, says: str) -> None:
    damage(folder / "output/adapter")
    with pytest.raises(ModelLoad, match=says):
        stage.run(from_adapter(folder), folder / "next")
    assert not (folder / "next/model").exists()


def test_an_adapter_whose_base_is_gone_is_refused(folder: Path) -> None:
    shutil.rmtree(folder / "ws/model")
    with pytest.raises(ModelLoad, match="the model that job bot was trained from is gone"):
        stage.run(from_adapter(folder), folder / "next")


def test_a_checkpoint_that_is_gone_is_refused_with_those_that_are_there(folder: Path) -> None:
    with pytest.raises(ModelLoad, match=r"spec\.model\.checkpoint: job bot has kept no checkpoint"):
        stage.run(second(folder, "Checkpoint", "ws", step=4), folder / "next")
    (folder / "ws/attempts/0/checkpoints/step-8").mkdir(parents=True)
    with pytest.raises(ModelLoad) as caught:
        stage.run(second(folder, "Checkpoint", "ws", step=4), folder / "next")
    assert caught.value.hint == "it has those of steps 8: name one of them"
    with pytest.raises(ModelLoad, match="step 8 of job bot is damaged"):
        stage.run(second(folder, "Checkpoint", "ws", step=8), folder / "next")


def test_lock_and_lineage_are_published_with_the_model(folder: Path, first: Any) -> None:
    lock = read_lock(folder / "output/merged")
    assert lock == first[1].model_dump(by_alias=True, exclude_none=True)
    assert lock["versions"]["torch"] == torch.__version__.split("+")[0]
    card = (folder / "output/merged/README.md").read_text()
    assert '"digest": "sha256:lock"' in card and '"seed": 42' in card and "lineage" not in card

    config = from_adapter(folder)
    told = stage.run(config, folder / "next")
    shutil.copytree(folder / "ws/attempts", folder / "next/attempts")
    export.run(config, folder / "next", folder / "new", 0, lock=lock_of(told))
    assert read_lock(folder / "new/adapter")["lineage"] == LINEAGE
    card = (folder / "new/adapter/README.md").read_text()
    assert '"job": "bot"' in card and '"base": "hf://org/small"' in card


def test_a_lock_of_another_model_is_not_published(folder: Path, first: Any) -> None:
    other = first[1].model_copy(update={"model": "sha256:other"})
    with pytest.raises(StageError, match="the prepared model has digest"):
        export.run(make_config(folder), folder / "ws", folder / "new", 0, lock=other)
    assert not (folder / "new/merged").exists()


def taken(folder: Path, lock: Lock, target: str = "new") -> dict[str, Any]:
    config = make_config(folder, "next")
    return reuse.reuse_result(config, lock, "bot", folder / "output", folder / target)


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_result_of_the_same_lock_is_taken_whole(folder: Path, first: Any) -> None:
    told = taken(folder, first[1])
    assert files(folder / "new") == files(folder / "output")
    assert told["artifact"]["formats"] == ["Adapter", "Merged"]
    assert told["artifact"]["step"] == 10
    assert told["train"] == {"metrics": METRICS, "step": 10, "steps": 10}
    manifest = json.loads((folder / "new/merged/manifest.json").read_text())
    assert manifest["job"]["name"] == "next"
    assert manifest["trainedBy"]["name"] == "bot"


def test_a_result_at_its_place_already_is_not_kept_twice(folder: Path, first: Any) -> None:
    before = files(folder / "output")
    told = taken(folder, first[1], "output")
    assert "artifact" in told
    assert files(folder / "output") == before


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(
            lambda o: flip(o / "merged/model.safetensors"), "does not agree with its hash", id="bit"
        ),
        pytest.param(
            lambda o: (o / "adapter/tokenizer.json").unlink(),
            "tokenizer.json is missing",
            id="file",
        ),
        pytest.param(lambda o: shutil.rmtree(o / "merged"), "merged is gone", id="folder"),
        pytest.param(lambda o: (o / "merged" / LOCK).unlink(), "has no lock", id="lock"),
    ],
)
def test_a_result_that_does_not_agree_is_refused_whole(
    folder: Path, first: Any, damage: Change, says: str
) -> None:
    damage(folder / "output")
    told = taken(folder, first[1])
    assert says in told["refused"] and "artifact" not in told
    assert not list((folder / "new").glob("*")) and not list((folder / "new").glob(".*"))


def test_a_result_of_another_lock_is_refused(folder: Path, first: Any) -> None:
    told = taken(folder, first[1].model_copy(update={"digest": "sha256:other"}))
    assert told["refused"] == "adapter has another lock: sha256:lock"


def test_prepare_says_what_lies_at_the_place_of_the_result(folder: Path) -> None:
    output = {"publishedPath": str(folder / "output"), "formats": ["Merged"]}
    told = stage.run(make_config(folder, "next", output=output), folder / "next")
    assert told["published"] == {
        "job": "bot",
        "uid": "uid-of-bot",
        "lock": "sha256:lock",
        "formats": ["Adapter", "Merged"],
    }
    empty = {"publishedPath": str(folder / "nowhere")}
    assert "published" not in stage.run(make_config(folder, output=empty), folder / "ws")
