"""The whole prepare stage on generated rows and settings: it ends in data whose rows add up, or in
one sentence with the field.

A few dozen runs in seconds; ``--fuzz-rows 100000`` goes on for minutes.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny_model
from unit.trainer.prepare.test_reader_fuzz import PACKERS, TEXTS, VALUES, damaged
from unit.trainer.prepare.test_stage import config

from finetune_trainer.errors import StageError
from finetune_trainer.prepare import stage
from finetune_trainer.prepare.store import PackedDataset

WORDS = ("gang", "pod", "rank", "épreuve", "你好", "🙂", "token", "<|im_end|>", "</s>", "loss")
POLICIES = ("Drop", "Report", "Drop", "Fail")
ROWS_OF_A_RUN = 120
"""For each so many of ``--fuzz-rows`` there is one run that ends in data."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def words(rng: random.Random) -> Any:
    kind = rng.random()
    if kind < 0.03:
        return rng.choice(VALUES)
    if kind < 0.1:
        return rng.choice(TEXTS)
    return " ".join(rng.choices(WORDS, k=min(60, int(rng.lognormvariate(1.5, 1)) + 1)))


def row(rng: random.Random, shape: str) -> dict[str, Any]:
    more = {"id": rng.randint(0, 200), "group": f"g{rng.randint(0, 30)}"}
    if shape == "completion":
        return {"text": words(rng), **more}
    if shape == "instruction":
        return {"prompt": words(rng), "response": words(rng), **more}
    turns = [
        {"role": role, "content": words(rng)}
        for _ in range(rng.randint(1, 3))
        for role in ("user", "assistant")
    ]
    return {"messages": turns, **more}


def write_rows(rng: random.Random, folder: Path, name: str) -> tuple[Path, int]:
    """A file of rows of one shape, and how many there are."""
    shape = rng.choice(("chat", "instruction", "completion"))
    rows = [row(rng, shape) for _ in range(rng.randint(5, 80))]
    rows += rng.choices(rows, k=rng.randint(0, 9))  # duplicates
    lines = [json.dumps(each).encode() for each in rows]
    if rng.random() < 0.3:
        lines = [damaged(rng, line) if rng.random() < 0.1 else line for line in lines]
    packer = rng.choice((*PACKERS, ""))
    path = folder / f"{name}.jsonl{packer}"
    content = b"\n".join(lines)
    path.write_bytes(PACKERS[packer](content))
    return path, sum(bool(line.strip()) for line in content.split(b"\n"))


def settings(rng: random.Random) -> dict[str, Any]:
    def any_of(*values: Any) -> Any:
        return rng.choice(values)

    rules = ("emptyAnswers", "duplicateIds", "exactDuplicates", "lengthOutliers",
             "ratioOutliers", "evalLeakage")  # fmt: skip
    cleaning: dict[str, Any] = {rule: rng.choice(POLICIES[:3]) for rule in rules}
    if rng.random() < 0.2:
        cleaning[rng.choice(rules)] = "Fail"
    cleaning["nearDuplicates"] = {"policy": rng.choice(POLICIES[:3]), "similarity": "0.7"}
    cleaning["normalize"] = any_of("NFC", "None")
    return {
        "sequenceLength": any_of(16, 64, 200),
        "packing": any_of("Isolated", "Isolated", "None"),
        "overlong": any_of("Truncate", "Drop", "Split", "Truncate", "Fail"),
        "evalFraction": any_of(0, 0.1, 0.4),
        "cleaning": cleaning,
        "expect": {"maxBrokenFraction": any_of(1.0, 0.05), "maxLeakedFraction": 1.0},
    }


def test_rows_of_any_kind_are_kept_put_aside_or_dropped_with_a_reason(
    tmp_path: Path, model: Path, pytestconfig: pytest.Config
) -> None:
    wanted, seen, seed, refused = pytestconfig.getoption("--fuzz-rows") // ROWS_OF_A_RUN, 0, 0, 0
    while seen < wanted:
        seed += 1
        rng, folder = random.Random(seed), tmp_path / "run"
        folder.mkdir()
        files = [write_rows(rng, folder, name) for name in ("a", "b")[: rng.randint(1, 2)]]
        weighted = len(files) == 2 and rng.random() < 0.4
        sources = [
            {"name": path.name[0], "field": f"spec.data.train[{n}]", "path": str(path)}
            | ({"weight": rng.choice(("1", "0.5", "3"))} if weighted else {})
            for n, (path, _) in enumerate(files)
        ]
        job = config(model, files[0][0], **settings(rng))
        job = job.model_validate(
            job.model_dump(by_alias=True)
            | {"data": job.data.model_dump(by_alias=True) | {"train": sources}}
        )
        try:
            result = stage.run(job, folder / "ws")["data"]
        except StageError as error:
            assert error.message.startswith("spec."), f"seed {seed}: {error.message}"
            assert len(error.message) < 2500, seed
            assert not (folder / "ws/data/train").exists(), f"seed {seed}: half-made data"
            refused += 1
        else:
            check(seed, folder, result, [count for _, count in files], weighted=weighted)
            seen += 1
        shutil.rmtree(folder)
    assert refused < 2 * seen


def check(
    seed: int, folder: Path, result: dict[str, Any], counts: list[int], *, weighted: bool
) -> None:
    manifest = json.loads((folder / "ws/data/manifest.json").read_text())
    accounts = manifest["accounts"]
    assert [one["rows"] for one in accounts] == counts, f"seed {seed}"
    for one in accounts:
        ended = one["kept"] + one["heldOut"] + one.get("notDrawn", 0) + sum(one["dropped"].values())
        assert ended == one["rows"], f"seed {seed}"
        assert weighted or not one.get("notDrawn"), f"seed {seed}"
    train, held = (PackedDataset(folder / "ws/data" / name) for name in ("train", "eval"))
    assert int(train.num_supervised.sum()) == result["supervisedTokens"] > 0, f"seed {seed}"
    assert train.num_tokens == result["tokens"], f"seed {seed}"
    assert bool(len(held)) == bool(result["evalRows"]), f"seed {seed}"
