"""The stage prepare as a whole, on a tiny real model."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_models import CHATML, FORGETFUL, TOOLS, save_tiny_model
from transformers import AutoTokenizer

from finetune_trainer.config import RunConfig
from finetune_trainer.errors import BadData, ConfigInvalid, ModelLoad, StageError
from finetune_trainer.prepare import stage
from finetune_trainer.prepare.store import IGNORE, PackedDataset


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def untold_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("untold"), template=None)


def config(model: Path, train: Path, **data: Any) -> RunConfig:
    train_source = {"name": "facts", "field": "spec.data.train[0]", "path": str(train)}
    return RunConfig.model_validate(
        {
            "job": {"namespace": "team", "name": "bot", "uid": "u1"},
            "model": {"path": str(model)},
            "data": {"train": [train_source], "sequenceLength": 64, **data},
            "method": {"lora": {}},
            "training": {
                "epochs": 2,
                "microBatchSize": 2,
                "accumulation": 1,
                "learningRate": 0.001,
            },
            "zeroStage": 2,
            "workers": {"count": 2, "ranksPerWorker": 1, "device": "CPU"},
        }
    )


def chat(number: int, answer: str = "A gang.") -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"What is {number}?"},
            {"role": "assistant", "content": answer},
        ]
    }


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_rows_in_come_out_packed_split_and_counted(tmp_path: Path, model: Path) -> None:
    rows = [chat(n, "A gang. " * random.Random(n).randint(1, 4)) for n in range(60)]
    train = write(tmp_path / "train.jsonl", rows)
    result = stage.run(config(model, train, evalFraction=0.2), tmp_path / "ws")

    data = result["data"]
    assert data["rows"] == 60 == data["kept"] + data["evalRows"]
    assert 0 < data["evalRows"] < 30
    packed = PackedDataset(tmp_path / "ws/data/train")
    assert len(packed) == data["packedRows"] < data["kept"]
    assert packed.num_tokens == data["tokens"]
    assert int(packed.num_supervised.sum()) == data["supervisedTokens"]
    assert max(packed.row_lengths) <= 64
    assert result["steps"] == 2 * -(-data["packedRows"] // 4)
    assert result["model"]["architecture"] == "LlamaForCausalLM"
    assert result["model"]["contextLength"] == 256


def test_the_written_targets_are_the_answers(tmp_path: Path, model: Path) -> None:
    train = write(tmp_path / "train.jsonl", [chat(n, f"It is {n}.") for n in range(9)])
    stage.run(config(model, train, evalFraction=0), tmp_path / "ws")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ws/model")
    row = PackedDataset(tmp_path / "ws/data/train").row(0)
    at = 0
    for length in row.segment_lengths:
        labels = row.labels[at : at + length]
        text = tokenizer.decode(row.input_ids[at : at + length])
        answer = tokenizer.decode(labels[labels != IGNORE])
        assert answer.startswith("It is ")
        assert f"assistant\n{answer}" in text
        assert answer.endswith("<|im_end|>")
        at += length


def test_a_second_run_keeps_the_result(tmp_path: Path, model: Path) -> None:
    train = write(tmp_path / "train.jsonl", [chat(n) for n in range(20)])
    first = stage.run(config(model, train), tmp_path / "ws")
    marks = {p: p.stat().st_ino for p in (tmp_path / "ws").rglob("*")}
    assert stage.run(config(model, train), tmp_path / "ws") == first
    assert {p: p.stat().st_ino for p in (tmp_path / "ws").rglob("*")} == marks


def test_changed_or_damaged_results_are_made_again(tmp_path: Path, model: Path) -> None:
    train = write(tmp_path / "train.jsonl", [chat(n) for n in range(20)])
    first = stage.run(config(model, train), tmp_path / "ws")
    (tmp_path / "ws/data/train/input_ids.npy").write_bytes(b"torn")
    assert stage.run(config(model, train), tmp_path / "ws") == first
    write(train, [chat(n) for n in range(25)])
    changed = stage.run(config(model, train), tmp_path / "ws")
    assert changed["data"]["rows"] == 25
    assert changed["data"]["digest"] != first["data"]["digest"]


def test_a_run_that_was_killed_is_repeated_from_its_leftovers(tmp_path: Path, model: Path) -> None:
    train = write(tmp_path / "train.jsonl", [chat(n) for n in range(20)])
    first = stage.run(config(model, train), tmp_path / "ws")
    for name in ("model", "data"):
        (tmp_path / "ws" / name).rename(tmp_path / "ws" / f".{name}.tmp.dead")
    (tmp_path / "ws/.data-source.tmp.dead").mkdir()
    assert stage.run(config(model, train), tmp_path / "ws") == first
    assert sorted(p.name for p in (tmp_path / "ws").iterdir()) == ["data", "model", "stages"]


def test_the_same_rows_give_the_same_files(tmp_path: Path, model: Path) -> None:
    train = write(tmp_path / "train.jsonl", [chat(n) for n in range(20)])
    digests = {
        stage.run(config(model, train), tmp_path / f"ws{n}")["data"]["digest"] for n in range(2)
    }
    assert len(digests) == 1


def test_eval_sources_replace_the_split(tmp_path: Path, model: Path) -> None:
    train = write(tmp_path / "train.jsonl", [chat(n) for n in range(10)])
    held = write(tmp_path / "eval.jsonl", [chat(9), chat(77)])
    source = {"name": "held", "field": "spec.data.eval[0]", "path": str(held)}
    result = stage.run(config(model, train, eval=[source]), tmp_path / "ws")
    assert (result["data"]["kept"], result["data"]["evalRows"]) == (10, 2)
    manifest = json.loads((tmp_path / "ws/data/manifest.json").read_text())
    assert manifest["rowsInTrainAndEval"] == 1
    assert manifest["evalSources"][0]["name"] == "held"


def test_every_row_is_accounted_for_by_source_and_rule(tmp_path: Path, model: Path) -> None:
    silent = {"messages": [{"role": "user", "content": "Hello?"}]}
    one = write(tmp_path / "one.jsonl", [*(chat(n) for n in range(30)), chat(3), chat(4, " ")])
    two = write(tmp_path / "two.jsonl", [*(chat(n) for n in range(25, 50)), silent, "{"])
    wanted = config(model, one, evalFraction=0.2, expect={"maxBrokenFraction": 0.1})
    second = {"name": "two", "field": "spec.data.train[1]", "path": str(two)}
    both = wanted.model_dump(by_alias=True)
    both["data"]["train"] = [*both["data"]["train"], second]
    data = stage.run(RunConfig.model_validate(both), tmp_path / "ws")["data"]

    assert data["dropped"] == {
        "brokenRows": 1,
        "emptyAnswers": 1,
        "exactDuplicates": 6,
        "noTargets": 1,
    }
    assert data["rows"] == 59 == data["kept"] + data["evalRows"] + sum(data["dropped"].values())
    assert [(s["format"], s["rows"], s["dropped"]) for s in data["sources"]] == [
        ("Chat", 32, {"emptyAnswers": 1, "exactDuplicates": 1}),
        ("Chat", 27, {"brokenRows": 1, "exactDuplicates": 5, "noTargets": 1}),
    ]
    listed = [json.loads(r) for r in (tmp_path / "ws/data/rejects.jsonl").read_text().splitlines()]
    assert sum(reject["action"] == "dropped" for reject in listed) == 9
    manifest = json.loads((tmp_path / "ws/data/manifest.json").read_text())
    assert manifest["sources"][0]["decided"] == "column 'messages' holds messages"
    for account in manifest["accounts"]:
        ended = account["kept"] + account["heldOut"] + sum(account["dropped"].values())
        assert account["rows"] == ended


@pytest.mark.parametrize(
    ("expect", "settings", "says"),
    [
        ({"minRows": 4}, {}, "spec.data.expect.minRows: 3 rows are left to train on (exactDupl"),
        (
            {"maxDroppedFraction": 0.2},
            {},
            "spec.data.expect.maxDroppedFraction: 1 of 4 training rows were dropped (exactDuplic",
        ),
        (
            {"maxTruncatedFraction": 0.3},
            {},
            "spec.data.expect.maxTruncatedFraction: 1 of 3 rows are cut at spec.data.sequenceLeng",
        ),
        ({"minRows": 3, "maxDroppedFraction": 0.25, "maxTruncatedFraction": 0.34}, {}, None),
    ],
)
def test_data_that_does_not_keep_its_bounds_ends_the_stage(
    tmp_path: Path, model: Path, expect: dict[str, Any], settings: dict[str, Any], says: str | None
) -> None:
    train = write(tmp_path / "train.jsonl", [*LONG, chat(0)])
    wanted = config(model, train, evalFraction=0, expect=expect, **settings)
    if says is None:
        assert stage.run(wanted, tmp_path / "ws")["data"]["kept"] == 3
        assert not (tmp_path / "ws/prepare-rejects.jsonl").exists()
        return
    with pytest.raises(BadData) as caught:
        stage.run(wanted, tmp_path / "ws")
    assert caught.value.message.startswith(says)
    assert "prepare-rejects.jsonl on the claim" in str(caught.value.hint)
    (reject,) = (tmp_path / "ws/prepare-rejects.jsonl").read_text().splitlines()
    assert json.loads(reject)["line"] == 4
    assert not (tmp_path / "ws/data").exists()


@pytest.mark.parametrize("kind", ["Chat", "Instruction", "Completion"])
def test_trap_s17_control_tokens_in_the_data_stay_text_in_every_format(
    tmp_path: Path, model: Path, kind: str
) -> None:
    typed = "a <|im_end|> b <|im_start|>system\nc </s>"
    row: dict[str, Any] = {
        "Chat": {
            "messages": [
                {"role": "user", "content": typed},
                {"role": "assistant", "content": typed},
            ]
        },
        "Instruction": {"prompt": typed, "response": typed},
        "Completion": {"text": typed},
    }[kind]
    train = write(tmp_path / "train.jsonl", [row])
    stage.run(config(model, train, evalFraction=0, sequenceLength=256), tmp_path / "ws")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ws/model")
    ids = PackedDataset(tmp_path / "ws/data/train").row(0).input_ids.tolist()
    of_template = {"<|im_start|>": 0, "<|im_end|>": 1, "</s>": 0}
    if kind != "Completion":
        of_template = {"<|im_start|>": 2, "<|im_end|>": 2, "</s>": 0}
    assert {t: ids.count(tokenizer.convert_tokens_to_ids(t)) for t in of_template} == of_template
    assert tokenizer.decode(ids).count(typed) == (1 if kind == "Completion" else 2)


CALL = {"type": "function", "function": {"name": "add", "arguments": '{"<|im_end|>": 7}'}}
WITH_TOOLS = {
    "tools": [{"type": "function", "function": {"name": "add", "description": "</s>"}}],
    "messages": [
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "7"},
        {"role": "assistant", "content": "Seven."},
    ],
}


def with_template(config: RunConfig, path: Path, template: str) -> RunConfig:
    path.write_text(template)
    wanted = config.model_dump(by_alias=True)
    wanted["model"]["chatTemplatePath"] = str(path)
    return RunConfig.model_validate(wanted)


def test_tool_calls_are_learnt_where_the_template_shows_them(tmp_path: Path, model: Path) -> None:
    train = write(tmp_path / "train.jsonl", [WITH_TOOLS])
    wanted = config(model, train, evalFraction=0, sequenceLength=256)
    stage.run(with_template(wanted, tmp_path / "template", TOOLS), tmp_path / "ws")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ws/model")
    row = PackedDataset(tmp_path / "ws/data/train").row(0)
    learnt = tokenizer.decode(row.labels[row.labels != IGNORE])
    assert learnt == 'add {"<|im_end|>": 7}<|im_end|>Seven.<|im_end|>'
    ids = row.input_ids.tolist()
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 5
    assert ids.count(tokenizer.convert_tokens_to_ids("</s>")) == 0
    assert '"description": "</s>"' in tokenizer.decode(ids)


def test_a_template_that_leaves_out_tool_calls_is_refused(tmp_path: Path, model: Path) -> None:
    train = write(tmp_path / "train.jsonl", [WITH_TOOLS])
    with pytest.raises(BadData, match=r"messages\[1\]: the chat template leaves out the tool call"):
        stage.run(config(model, train, evalFraction=0, sequenceLength=256), tmp_path / "ws")


LONG = [chat(0), chat(1, "A gang of pods. " * 40), chat(2)]
"""The middle row has about 5 times 64 tokens."""


@pytest.mark.parametrize(
    ("policy", "kept", "dropped", "truncated"),
    [
        ("Truncate", 3, {}, 1),
        ("Drop", 2, {"tooLong": 1}, 0),
        ("Split", 3, {}, 0),
    ],
)
def test_what_is_too_long_is_treated_as_asked_and_counted(
    tmp_path: Path, model: Path, policy: str, kept: int, dropped: dict[str, int], truncated: int
) -> None:
    train = write(tmp_path / "train.jsonl", LONG)
    settings = {"overlong": policy, "evalFraction": 0, "packing": "None"}
    data = stage.run(config(model, train, **settings), tmp_path / "ws")["data"]
    assert (data["kept"], data["dropped"], data["truncated"]) == (kept, dropped, truncated)
    packed = PackedDataset(tmp_path / "ws/data/train")
    assert max(packed.row_lengths) <= 64
    assert (len(packed) > 3) == (policy == "Split")


def test_overlong_fail_names_the_line_and_the_length(tmp_path: Path, model: Path) -> None:
    train = write(tmp_path / "train.jsonl", LONG)
    with pytest.raises(BadData, match=r"train.jsonl line 2: \d+ tokens, spec.data.sequenceLength"):
        stage.run(config(model, train, overlong="Fail", evalFraction=0), tmp_path / "ws")


def test_trap_10_rows_without_targets_are_dropped_and_counted(tmp_path: Path, model: Path) -> None:
    silent = {"messages": [{"role": "user", "content": "Hello?"}]}
    cut_off = chat(1)
    cut_off["messages"][0]["content"] = "a b c " * 60
    train = write(tmp_path / "train.jsonl", [chat(0), silent, cut_off])
    data = stage.run(config(model, train, evalFraction=0), tmp_path / "ws")["data"]
    assert data["kept"] == 1
    assert data["dropped"] == {"noTargets": 1, "noTargetsWithinSequenceLength": 1}


def test_trap_10_data_without_any_target_is_an_error(tmp_path: Path, model: Path) -> None:
    train = write(tmp_path / "train.jsonl", [{"messages": [{"role": "user", "content": "Hello?"}]}])
    with pytest.raises(BadData, match=r"train\[0\]: no row is left to train on \(noTargets: 1\)"):
        stage.run(config(model, train), tmp_path / "ws")


@pytest.mark.parametrize(("loss_on", "answers"), [("Assistant", 2), ("Response", 1)])
def test_loss_on_chooses_the_turns(tmp_path: Path, model: Path, loss_on: str, answers: int) -> None:
    row = {"messages": chat(0)["messages"] + chat(1)["messages"]}
    train = write(tmp_path / "train.jsonl", [row])
    stage.run(
        config(model, train, lossOn=loss_on, evalFraction=0, sequenceLength=128), tmp_path / "ws"
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ws/model")
    labels = PackedDataset(tmp_path / "ws/data/train").row(0).labels
    assert tokenizer.decode(labels[labels != IGNORE]) == "A gang.<|im_end|>" * answers


def test_no_chat_template_is_told_before_anything_is_trained(
    tmp_path: Path, untold_model: Path
) -> None:
    train = write(tmp_path / "train.jsonl", [chat(0)])
    with pytest.raises(BadData, match=r"spec\.model\.chatTemplate: the model has no chat template"):
        stage.run(config(untold_model, train), tmp_path / "ws")


def test_instructions_need_no_chat_template(tmp_path: Path, untold_model: Path) -> None:
    rows = [{"prompt": f"What is {n}?", "response": "A gang."} for n in range(3)]
    train = write(tmp_path / "train.jsonl", rows)
    stage.run(config(untold_model, train, evalFraction=0), tmp_path / "ws")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ws/model")
    row = PackedDataset(tmp_path / "ws/data/train").row(0)
    assert "What is 0?\n\nA gang.<|im_end|>" in tokenizer.decode(row.input_ids)


def test_the_template_of_the_job_comes_before_the_models(
    tmp_path: Path, untold_model: Path
) -> None:
    train = write(tmp_path / "train.jsonl", [chat(0)])
    (tmp_path / "template").write_text(CHATML)
    wanted = config(untold_model, train, evalFraction=0).model_dump(by_alias=True)
    wanted["model"]["chatTemplatePath"] = str(tmp_path / "template")
    stage.run(RunConfig.model_validate(wanted), tmp_path / "ws")
    assert AutoTokenizer.from_pretrained(tmp_path / "ws/model").chat_template == CHATML


def test_a_template_that_hides_the_answers_is_refused_with_file_and_line(
    tmp_path: Path, untold_model: Path
) -> None:
    train = write(tmp_path / "t.jsonl", [{"messages": chat(0)["messages"] + chat(1)["messages"]}])
    (tmp_path / "template").write_text(FORGETFUL)
    wanted = config(untold_model, train, evalFraction=0).model_dump(by_alias=True)
    wanted["model"]["chatTemplatePath"] = str(tmp_path / "template")
    with pytest.raises(BadData, match=r"t.jsonl line 1: messages\[1\]: the chat template rewrites"):
        stage.run(RunConfig.model_validate(wanted), tmp_path / "ws")


def test_rows_longer_than_the_models_context_are_refused(tmp_path: Path, model: Path) -> None:
    train = write(tmp_path / "train.jsonl", [chat(0)])
    with pytest.raises(ConfigInvalid, match=r"spec\.data\.sequenceLength: 512 is more than .* 256"):
        stage.run(config(model, train, sequenceLength=512), tmp_path / "ws")


def edit_config(folder: Path, **changes: Any) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **changes}))


def pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncate_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (pickle_weights, "spec.model.uri: the weights are pickled (pytorch_model.bin)"),
        (truncate_weights, "spec.model.uri: model.safetensors is no whole safetensors file"),
        (lambda f: (f / "config.json").unlink(), "there are weights but no config.json"),
        (lambda f: (f / "tokenizer.json").unlink(), "spec.model.uri: the tokenizer"),
        (lambda f: edit_config(f, model_type="frobnicator"), "config.json cannot be used"),
        (lambda f: edit_config(f, model_type="vit"), "vit models are no causal language models"),
        (lambda f: shutil.rmtree(f), "spec.model.uri: nothing at model"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_with_its_field(
    tmp_path: Path, model: Path, damage: Any, says: str
) -> None:
    shutil.copytree(model, tmp_path / "model")
    damage(tmp_path / "model")
    train = write(tmp_path / "train.jsonl", [chat(0)])
    with pytest.raises(ModelLoad) as caught:
        stage.run(config(tmp_path / "model", train), tmp_path / "ws")
    assert says in caught.value.message
    assert not (tmp_path / "ws/model").exists()


def test_errors_survive_a_process_boundary() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(BadData("spec.data: wrong", "do this")))
    assert isinstance(error, StageError)
    assert (str(error), error.hint) == ("spec.data: wrong", "do this")
