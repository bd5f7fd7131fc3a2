from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_models import save_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_trainer import answer
from finetune_trainer.errors import BadData

QUESTIONS = [
    {"prompt": "What is a gang?", "response": "A set of pods."},
    {"id": "two", "prompt": "a b c 1 2 3 4 5 6 7 8 9 system question"},
    {
        "messages": [
            {"role": "user", "content": "你好"},
            {"role": "assistant", "content": "naïve"},
        ]
    },
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), seed=3, tied=False)


def ask(model: Path, folder: Path, *options: str) -> list[dict[str, object]]:
    (folder / "q.jsonl").write_text("".join(f"{json.dumps(q)}\n" for q in QUESTIONS))
    out = folder / "answers.jsonl"
    arguments = ["--model", str(model), "--prompts", str(folder / "q.jsonl"), "--out", str(out)]
    assert answer.main([*arguments, "--max-new-tokens", "8", *options]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_answers_come_in_the_order_of_the_questions(model: Path, tmp_path: Path) -> None:
    answers = ask(model, tmp_path)
    assert [line["id"] for line in answers] == [0, "two", 2]
    assert [line["reference"] for line in answers] == ["A set of pods.", None, "naïve"]
    assert answers[2]["prompt"] == "你好"


def test_batching_does_not_change_an_answer(model: Path, tmp_path: Path) -> None:
    together, alone = ask(model, tmp_path), ask(model, tmp_path, "--batch", "1")
    assert together == alone
    assert any(line["answer"] for line in together)


def test_an_answer_is_the_greedy_continuation_of_the_chat_prompt(
    model: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    plain = AutoModelForCausalLM.from_pretrained(model)
    text = "<|im_start|>user\nWhat is a gang?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.encode(text, add_special_tokens=False)
    start = len(ids)
    for _ in range(8):
        token = int(plain(torch.tensor([ids])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    expected = tokenizer.decode(ids[start:], skip_special_tokens=True).strip()
    assert ask(model, tmp_path)[0]["answer"] == expected


def test_a_single_question_gets_the_answer_that_it_gets_in_a_file(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(model), "--prompt", "What is a gang?", "--max-new-tokens", "8"]
    assert answer.main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {**ask(model, tmp_path)[0], "reference": None}


def test_the_limit_takes_the_first_questions(model: Path, tmp_path: Path) -> None:
    assert len(ask(model, tmp_path, "--limit", "2")) == 2


@pytest.mark.parametrize("line", ["{", '{"question": "a"}', "5"])
def test_a_line_that_is_no_question_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "q.jsonl").write_text(f'{{"prompt": "a"}}\n{line}\n')
    with pytest.raises(BadData, match=r"q\.jsonl line 2: neither messages nor prompt"):
        list(answer.read_questions(tmp_path / "q.jsonl"))
