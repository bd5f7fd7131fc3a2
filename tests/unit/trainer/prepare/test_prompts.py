"""Prompts from held-out rows: a conversation up to its last answer, as the model will be asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import CHATML, TOOLS, save_tiny_model
from transformers import AutoTokenizer

from finetune_trainer.config import Generation, RunConfig
from finetune_trainer.errors import BadData, ConfigInvalid
from finetune_trainer.judging.prompts import PROMPTS, read_prompts
from finetune_trainer.prepare import stage
from finetune_trainer.prepare.store import PackedDataset


def prepared(
    folder: Path, held: list[Any], template: str | None = CHATML, **generation: Any
) -> Path:
    """The workspace of a job with these held-out rows."""
    folder.mkdir(exist_ok=True)
    train = [{"prompt": f"What is {n}?", "response": "A gang."} for n in range(4)]
    if held and "text" in held[0]:
        train = [{"text": f"The gang number {n}."} for n in range(4)]
    for name, rows in (("train", train), ("held", held)):
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = {
        name: [{"name": name, "field": f"spec.data.{name}[0]", "path": str(folder / file)}]
        for name, file in (("train", "train"), ("eval", "held"))
    }
    config = RunConfig.model_validate(
        {
            "job": {"namespace": "team", "name": "bot", "uid": "u1"},
            "model": {"path": str(save_tiny_model(folder / "source", template))},
            "data": {**source, "sequenceLength": 128},
            "method": {"lora": {}},
            "training": {"steps": 1, "microBatchSize": 1, "accumulation": 1, "learningRate": 0.1},
            "zeroStage": 0,
            "workers": {"count": 1, "ranksPerWorker": 1, "device": "CPU"},
            "evaluation": {"generation": {"maxNewTokens": 8, **generation}},
        }
    )
    stage.run(config, folder / "ws")
    return folder / "ws"


def lines(workspace: Path) -> list[dict[str, Any]]:
    text = (workspace / "data/eval" / PROMPTS).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_the_prompt_is_what_stands_before_the_last_answer(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is a gang?"},
        {"role": "assistant", "content": "A set of pods."},
        {"role": "user", "content": "And <|im_end|> here?"},
        {"role": "assistant", "content": "Text."},
    ]
    workspace = prepared(tmp_path, [{"messages": turns}])
    (prompt,) = lines(workspace)
    assert (prompt["reference"], prompt["messages"]) == ("Text.", turns[:-1])
    assert prompt["place"] == "held line 1"
    # Token by token the beginning of the row, as it is trained on: typed control tokens are text.
    row = PackedDataset(workspace / "data/eval").row(0)
    ids = row.input_ids.tolist()
    assert ids[: len(prompt["ids"])] == prompt["ids"]
    tokenizer = AutoTokenizer.from_pretrained(workspace / "model")
    assert tokenizer.decode(ids[len(prompt["ids"]) :]).startswith("Text.")
    assert row.labels[len(prompt["ids"])] >= 0 > row.labels[len(prompt["ids"]) - 1]


def test_without_a_template_the_prompt_is_the_plain_text(tmp_path: Path) -> None:
    workspace = prepared(tmp_path, [{"prompt": "What is 9?", "response": "A gang."}], None)
    (prompt,) = lines(workspace)
    tokenizer = AutoTokenizer.from_pretrained(workspace / "model")
    assert tokenizer.decode(prompt["ids"]) == "What is 9?\n\n"
    ids = PackedDataset(workspace / "data/eval").row(0).input_ids.tolist()
    assert ids[: len(prompt["ids"])] == prompt["ids"]


def test_rows_without_an_answer_in_words_give_no_prompt(tmp_path: Path) -> None:
    call = {"function": {"name": "pods", "arguments": {}}}
    silent = [
        {"role": "user", "content": "What is a gang?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    spoken = [*silent, {"role": "tool", "content": "3"}, {"role": "assistant", "content": "Three."}]
    long = [{"role": "user", "content": "gang " * 150}, {"role": "assistant", "content": "Long."}]
    rows = [{"messages": turns} for turns in (silent, spoken, long)]
    found = lines(prepared(tmp_path, rows, TOOLS))
    assert [prompt["reference"] for prompt in found] == ["Three."]


def test_the_same_prompts_come_first_when_the_data_grows(tmp_path: Path) -> None:
    def places(count: int) -> list[str]:
        rows = [{"prompt": f"Question {n}?", "response": f"Answer {n}."} for n in range(count)]
        workspace = prepared(tmp_path / str(count), rows)
        return [prompt["messages"][0]["content"] for prompt in lines(workspace)]

    few, many = places(20), places(40)
    assert [place for place in many if place in few] == few
    assert few != sorted(few)


def test_a_job_gets_the_first_prompts_that_leave_room_for_an_answer(tmp_path: Path) -> None:
    rows = [{"prompt": "gang " * (n + 1), "response": "A."} for n in range(10)]
    workspace = prepared(tmp_path, rows, maxPrompts=3)
    every = read_prompts(workspace / "data/eval", Generation(max_prompts=1000), 256)
    assert len(every) == 10
    some = read_prompts(workspace / "data/eval", Generation(max_prompts=3), 256)
    assert some == every[:3]
    shortest = min(len(prompt.ids) for prompt in every)
    tight = Generation(max_new_tokens=256 - shortest)
    assert [len(p.ids) for p in read_prompts(workspace / "data/eval", tight, 256)] == [shortest]
    with pytest.raises(BadData, match=r"spec\.evaluation\.generation\.maxNewTokens: 250") as caught:
        read_prompts(workspace / "data/eval", Generation(max_new_tokens=250), 256)
    assert caught.value.hint == f"set it to at most {256 - shortest}"


def test_a_regex_that_the_trainer_does_not_know_ends_the_job_at_once(tmp_path: Path) -> None:
    wrong = {"metrics": ["Regex"], "regex": "(?P<a"}
    with pytest.raises(ConfigInvalid, match=r"spec\.evaluation\.generation\.regex: is no"):
        prepared(tmp_path, [{"prompt": "What?", "response": "A gang."}], **wrong)
    assert not (tmp_path / "ws/model").exists()


def test_answers_that_nobody_can_be_asked_for_end_the_job_before_a_gpu_is_held(
    tmp_path: Path,
) -> None:
    with pytest.raises(BadData, match=r"spec\.evaluation\.generation: no held-out row") as caught:
        prepared(tmp_path, [{"text": "What is a gang? A set of pods."}])
    assert "Chat or Instruction" in str(caught.value.hint)
