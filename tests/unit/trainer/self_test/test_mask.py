"""What the mask covers, in words; and what ranks must agree on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import GENERATION, save_tiny_model
from unit.trainer.prepare.test_stage import chat, config, write

from finetune_trainer.errors import BadData, ModelLoad, StageError
from finetune_trainer.prepare import stage
from finetune_trainer.prepare.store import PackedDataset
from finetune_trainer.self_test.run import agreed
from finetune_trainer.witness import (
    WITNESSES,
    decoder_of,
    disagreement,
    mask_fault,
    read_witnesses,
)

ANSWER = "A gang starts together or not at all."


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mask")
    model = save_tiny_model(folder / "model")
    rows = write(folder / "rows.jsonl", [chat(n, f"{ANSWER} {n}") for n in range(40)])
    stage.run(config(model, rows, evalFraction=0), folder / "ws")
    return folder / "ws"


def fault_of(workspace: Path) -> str | None:
    folder = workspace / "data" / "train"
    rows = PackedDataset(folder)
    return mask_fault(rows, read_witnesses(folder), decoder_of(workspace / "model"))


def test_witnesses_are_whole_samples_from_all_over_the_data(workspace: Path) -> None:
    witnesses = read_witnesses(workspace / "data" / "train")
    assert len({witness.place for witness in witnesses}) == 3
    for witness in witnesses:
        number = int(witness.place.rpartition(" ")[2]) - 1
        assert witness.learnt == (f"{ANSWER} {number}",)
        assert witness.given == (f"What is {number}?",)
    assert fault_of(workspace) is None


@pytest.mark.parametrize("by", [1, -1])
def test_a_mask_that_changed_on_the_volume_is_found(
    workspace: Path, tmp_path: Path, by: int
) -> None:
    shutil.copytree(workspace, tmp_path / "ws")
    path = tmp_path / "ws/data/train/supervised.npy"
    np.save(path, np.roll(np.load(path), by))
    assert fault_of(tmp_path / "ws") is not None


def test_text_that_is_no_answer_and_answers_that_are_left_out_are_named(workspace: Path) -> None:
    witness = read_witnesses(workspace / "data" / "train")[0]
    witness = replace(witness, given=("What is the meaning of it?",))
    assert disagreement(witness, [f"{witness.learnt[0]}"]) is None
    assert disagreement(witness, [f"{witness.learnt[0]} what is the meaning of it?"]) == (
        f"{witness.place}: the loss covers 'whatisthemeaningofit?', which is no answer"
    )
    told = disagreement(witness, [witness.learnt[0][:-4]])
    assert told is not None
    assert told.startswith(f"{witness.place}: the loss leaves out a part of the answer 'agang")


def test_data_without_witnesses_is_as_before_and_a_torn_list_is_told(tmp_path: Path) -> None:
    assert read_witnesses(tmp_path) == []
    (tmp_path / WITNESSES).write_text('[{"place": ')
    with pytest.raises(StageError, match="cannot be read"):
        read_witnesses(tmp_path)


def test_a_template_that_marks_the_question_is_refused_before_training(tmp_path: Path) -> None:
    wrong = GENERATION.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    wrong = "{% generation %}" + wrong + "{% endgeneration %}"
    model = save_tiny_model(tmp_path / "model", template=wrong)
    question = "What is the meaning of a gang?"
    rows = [
        {"messages": [{"role": "user", "content": f"{question} {n}"}, chat(n)["messages"][1]]}
        for n in range(9)
    ]
    with pytest.raises(BadData, match=r"spec\.model\.chatTemplate: .* the loss covers 'whatisthe"):
        stage.run(
            config(model, write(tmp_path / "rows.jsonl", rows), evalFraction=0), tmp_path / "ws"
        )


def test_a_tokenizer_of_another_model_is_refused_with_the_row(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"vocab_size": 100}))
    rows = write(tmp_path / "rows.jsonl", [chat(n) for n in range(3)])
    with pytest.raises(ModelLoad, match=r"spec\.model\.uri: tokenizer and model do not belong"):
        stage.run(config(model, rows, evalFraction=0), tmp_path / "ws")


def test_ranks_agree_on_one_sentence() -> None:
    fine: tuple[dict[str, str | None], dict[str, float]] = ({"mask": None}, {"alone": 2.0})
    bad: tuple[dict[str, str | None], dict[str, float]] = ({"mask": "wrong"}, {"alone": 2.0})
    assert agreed([fine, fine], 1e-4) == (None, None)
    assert agreed([fine, bad], 1e-4) == ("mask", "rank 1: wrong")
    assert agreed([bad, bad], 1e-4) == ("mask", "wrong")
    other = (fine[0], {"alone": 2.1})
    check, fault = agreed([fine, fine, other], 1e-4)
    assert check == "ranks"
    assert fault is not None
    assert fault.startswith("ranks 0 and 2 compute different losses of the same samples, 2 and 2.1")
