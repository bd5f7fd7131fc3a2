"""A row that the chat template refuses is one bad row; a template that refuses all is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import CHATML, save_tiny_model
from unit.trainer.prepare.test_stage import chat, config, write

from finetune_trainer.errors import BadData
from finetune_trainer.explanation import known_failure
from finetune_trainer.prepare import stage

STRICT = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('after user comes assistant') }}{% endif %}{% endfor %}"
) + CHATML
REASON = "the chat template refuses it: after user comes assistant"
OUT_OF_ORDER = {
    "messages": [
        {"role": "user", "content": "What?"},
        {"role": "user", "content": "And who?"},
        {"role": "assistant", "content": "A gang."},
    ]
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("strict"), template=STRICT)


def rejects(folder: Path) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines())
    return [line for line in lines if line["rule"] == "templateRefusals"]


def test_a_row_out_of_order_is_left_out_with_its_line_and_what_the_template_says(
    tmp_path: Path, model: Path
) -> None:
    good = [chat(n, f"It is {n}.") for n in range(40)]
    with_one = write(tmp_path / "train.jsonl", [*good[:7], OUT_OF_ORDER, *good[7:]])
    data = stage.run(config(model, with_one, evalFraction=0), tmp_path / "ws")["data"]
    assert data["dropped"] == {"templateRefusals": 1}
    assert data["rows"] == 41 == data["kept"] + 1
    (line,) = rejects(tmp_path / "ws/data")
    assert (line["file"], line["line"], line["action"]) == ("train.jsonl", 8, "dropped")
    assert line["reason"] == REASON
    assert "And who?" in line["excerpt"]
    report = json.loads((tmp_path / "ws/data/report.json").read_text())
    (rule,) = (each for each in report["rules"] if each["rule"] == "templateRefusals")
    assert rule["dropped"] == 1
    assert REASON in rule["examples"][0]

    without = write(tmp_path / "without.jsonl", good)
    stage.run(config(model, without, evalFraction=0), tmp_path / "other")
    for name in ("input_ids", "supervised", "row_offsets"):
        rows, same = (tmp_path / ws / f"data/train/{name}.npy" for ws in ("ws", "other"))
        assert rows.read_bytes() == same.read_bytes()


def test_rows_of_which_the_template_hides_the_answer_are_left_out_alike(tmp_path: Path) -> None:
    loud = CHATML.replace("message['content']", "message['content'] | replace('no', 'NO')")
    model = save_tiny_model(tmp_path / "loud", template=loud)
    train = write(tmp_path / "train.jsonl", [*(chat(n) for n in range(40)), chat(50, "It is no.")])
    data = stage.run(config(model, train, evalFraction=0), tmp_path / "ws")["data"]
    assert data["dropped"] == {"templateRefusals": 1}
    (line,) = rejects(tmp_path / "ws/data")
    assert line["reason"] == "messages[1]: the chat template changes or moves the answer"


def test_held_out_rows_count_in_their_own_source(tmp_path: Path, model: Path) -> None:
    train = write(tmp_path / "train.jsonl", [chat(n) for n in range(20)])
    held = write(tmp_path / "eval.jsonl", [*(chat(n) for n in range(50, 90)), OUT_OF_ORDER])
    source = {"name": "held", "field": "spec.data.eval[0]", "path": str(held)}
    data = stage.run(config(model, train, eval=[source]), tmp_path / "ws")["data"]
    assert data["dropped"] == {}
    assert [each["dropped"] for each in data["sources"]] == [{}, {"templateRefusals": 1}]
    assert data["evalRows"] == 40


def test_more_of_them_than_may_be_broken_end_the_stage(tmp_path: Path, model: Path) -> None:
    rows = [*(chat(n) for n in range(17)), OUT_OF_ORDER]
    train = write(tmp_path / "train.jsonl", rows)
    with pytest.raises(BadData) as caught:
        stage.run(config(model, train, evalFraction=0.3), tmp_path / "ws")
    assert caught.value.message == (
        f"spec.data.train[0]: train.jsonl line 18: {REASON} (1 of 18 rows are broken, "
        "spec.data.expect.maxBrokenFraction is 0.05)"
    )
    assert "spec.model.chatTemplate" in str(caught.value.hint)
    enough = config(model, train, evalFraction=0.3, expect={"maxBrokenFraction": 0.06})
    assert stage.run(enough, tmp_path / "ws")["data"]["dropped"] == {"templateRefusals": 1}


def test_broken_rows_of_both_kinds_are_added_up(tmp_path: Path, model: Path) -> None:
    train = write(tmp_path / "train.jsonl", [*(chat(n) for n in range(38)), OUT_OF_ORDER])
    train.write_text(train.read_text() + "{\n")
    wish = {"evalFraction": 0, "expect": {"maxBrokenFraction": 0.04}}
    with pytest.raises(BadData, match="2 of 40 rows are broken"):
        stage.run(config(model, train, **wish), tmp_path / "ws")


@pytest.mark.parametrize(
    ("limit", "says"), [(0.05, "1 of 2 rows are broken"), (1, "templateRefusals: 1; train.jsonl")]
)
def test_a_template_that_refuses_everything_is_quoted(
    tmp_path: Path, model: Path, limit: float, says: str
) -> None:
    train = write(tmp_path / "train.jsonl", [OUT_OF_ORDER, OUT_OF_ORDER])
    with pytest.raises(BadData) as caught:
        stage.run(
            config(model, train, evalFraction=0, expect={"maxBrokenFraction": limit}),
            tmp_path / "ws",
        )
    assert says in caught.value.message
    assert REASON in caught.value.message
    assert "spec.model.chatTemplate" in str(caught.value.hint)
    known = known_failure(caught.value)
    assert known is not None
    assert known.name == "ChatTemplateRefused"


def test_none_may_be_left_out_where_the_policy_is_fail(tmp_path: Path, model: Path) -> None:
    train = write(tmp_path / "train.jsonl", [*(chat(n) for n in range(40)), OUT_OF_ORDER])
    with pytest.raises(BadData) as caught:
        stage.run(config(model, train, cleaning={"templateRefusals": "Fail"}), tmp_path / "ws")
    assert f"train.jsonl line 41: {REASON}" in caught.value.message
    assert "spec.data.cleaning.templateRefusals is Fail" in caught.value.message


@pytest.mark.parametrize(
    "broken", ["{{ 1 // (2 - messages | length) }}", "{{ range(10 ** 9) }}", "{{ 'a'.index('b') }}"]
)
def test_whatever_a_template_stumbles_over_is_its_refusal(tmp_path: Path, broken: str) -> None:
    model = save_tiny_model(tmp_path / "model", template=CHATML + broken)
    train = write(tmp_path / "train.jsonl", [chat(n) for n in range(3)])
    with pytest.raises(BadData, match="the chat template refuses it"):
        stage.run(config(model, train), tmp_path / "ws")


@pytest.mark.parametrize("side", ["eval", "general"])
def test_a_source_to_score_of_which_nothing_is_left_is_named(
    tmp_path: Path, model: Path, side: str
) -> None:
    """Else nothing would be scored, and a gate would say so after the training."""
    train = write(tmp_path / "train.jsonl", [chat(n) for n in range(20)])
    source = {
        "name": "held",
        "field": f"spec.data.{side}[0]",
        "path": str(write(tmp_path / "held.jsonl", [OUT_OF_ORDER])),
    }
    with pytest.raises(BadData) as caught:
        stage.run(
            config(model, train, **{side: [source]}, expect={"maxBrokenFraction": 1}),
            tmp_path / "ws",
        )
    said = f"spec.data.{side}[0]: no row is left to score (templateRefusals: 1; held.jsonl line 1"
    assert caught.value.message.startswith(said)
