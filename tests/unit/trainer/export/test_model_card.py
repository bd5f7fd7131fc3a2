"""The model card: read by the hub's own library, and its code blocks do run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from small_job import make_config

from finetune_trainer.lock import versions
from finetune_trainer.model_card import CardFacts, model_card
from finetune_trainer.prepare.licence import licence, licence_name, read_card

MODEL: dict[str, Any] = {
    "source": "team/base",
    "commit": "c0ffee",
    "architecture": "LlamaForCausalLM",
    "parameters": 1234567,
    "contextLength": 256,
    "digest": "sha256:aa",
    "licence": {"license": "other", "license_name": "team-1.0"},
}
ACCOUNT = {"field": "spec.data.train[0]", "rows": 12, "kept": 10}
DATA: dict[str, Any] = {
    "digest": "sha256:bb",
    "kept": 10,
    "supervisedTokens": 2000,
    "evalRows": 2,
    "sequenceLength": 64,
    "rowsInTrainAndEval": 1,
    "reported": {"nearDuplicates": 3},
    "dropped": {"exactDuplicates": 2},
    "truncated": 1,
    "sources": [{"name": "a", "files": ["a.jsonl"], "commit": "beef", "licence": "cc-by-4.0"}],
    "evalSources": [],
    "accounts": [ACCOUNT],
}
RESULT = {
    "step": 10,
    "keptStep": 8,
    "metrics": {"evalLoss": 0.9, "perplexity": 2.46, "bleu": float("nan"),
                "baseline": {"evalLoss": 2.2, "perplexity": 9.03}},
}  # fmt: skip
HUB = {"model": {"hub": {"repository": "team/base", "revision": "main"}}}


def card(form: Any = "Merged", lock: Any = None, chat: bool = True, **changes: Any) -> str:
    config = make_config(Path("x"), **changes)
    return model_card(CardFacts(config, MODEL, DATA, RESULT, "it may", lock or {}, chat), form)


def test_the_hubs_library_reads_the_front_matter() -> None:
    hub = {"repository": "team/rows"}
    train = [{"name": "a", "field": "spec.data.train[0]", "hub": hub}]
    data = ModelCard(card(**HUB, data={"train": train, "sequenceLength": 64})).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert (data.base_model, data.get("base_model_relation")) == ("team/base", "finetune")
    assert (data.license, data.license_name) == ("other", "team-1.0")
    assert data.datasets == ["team/rows"]
    assert {r.metric_type: r.metric_value for r in data.eval_results} == {
        "loss": 0.9, "perplexity": 2.46,
    }  # fmt: skip
    adapter = ModelCard(card("Adapter", **HUB)).data
    assert (adapter.library_name, adapter.get("base_model_relation")) == ("peft", "adapter")
    local = ModelCard(card()).data
    assert local.base_model is None and local.get("base_model_relation") is None


def test_the_card_tells_what_the_model_was_made_of() -> None:
    text = card(gate={"scores": []}, lock={"seed": 42})
    for line in (
        "| loss | 2.2 | 0.9 |",
        "Published because it may (`spec.gate`).",
        "| Source | team/base@c0ffee |",
        "| Licence | team-1.0 |",
        "| Digest | sha256:bb |",
        "| a | a.jsonl | cc-by-4.0 | 12 | 10 |",
        "| Method | LoRA, rank 4, alpha 32, dropout 0, all linear layers |",
        "| Weights of step | 8 |",
        "| Learning rate | 0.01, Cosine, warm-up 0.03, final 0.1 |",
        "- 1 held-out rows are trained on, too: the scores flatter the model",
        "- nearDuplicates: 3 rows were kept and reported (almost the same content as an earlier "
        "row)",
        "- exactDuplicates: 2 rows were left out (the same content as an earlier row)",
    ):
        assert line in text.splitlines(), text
    assert re.search(r"^\| torch \| \d", text, re.M)
    assert '"seed": 42' in text and "## Lock" not in card()


@pytest.mark.parametrize(
    ("device", "method", "besides"),
    [
        ("CPU", {}, set()),
        ("GPU", {}, {"liger-kernel", "triton"}),
        ("GPU", {"lora": {"quantization": "NF4"}}, {"liger-kernel", "triton", "bitsandbytes"}),
    ],
)
def test_card_and_lock_name_the_libraries_whose_kernels_compute(
    device: str, method: dict[str, Any], besides: set[str]
) -> None:
    workers = {"count": 1, "ranksPerWorker": 1, "device": device}
    found = set(versions(make_config(Path("x"), workers=workers, method=method)))
    assert found & {"liger-kernel", "triton", "bitsandbytes"} == besides
    text = card(workers=workers, method=method)
    for name in ("liger-kernel", "triton", "bitsandbytes"):
        assert (f"| {name} | " in text) is (name in besides)


def test_vllm_is_told_a_rank_that_it_takes() -> None:
    told = [card("Adapter", method={"lora": {"rank": rank}}) for rank in (4, 8, 17)]
    assert ["--max-lora-rank 8 " in told[0], "--max-lora-rank 8 " in told[1],
            "--max-lora-rank 32 " in told[2]] == [True] * 3  # fmt: skip


@pytest.mark.parametrize(
    ("readme", "known"),
    [
        ("---\nlicense: apache-2.0\n---\n# Hello", {"license": "apache-2.0"}),
        ("---\nlicense: [a, b]\n---\n", None),
        ("---\nlicense: {\n---\n", None),
        ("# Hello", None),
        ("---\nlicense: " + "x" * 300 + "\n---\n", None),
    ],
)
def test_the_licence_is_what_the_readme_says(tmp_path: Path, readme: str, known: Any) -> None:
    (tmp_path / "README.md").write_text(readme)
    assert licence(read_card(tmp_path)) == known
    assert licence(read_card(tmp_path / "nowhere")) is None


@pytest.mark.parametrize(
    ("front", "told"),
    [
        ({"license": "cc-by-4.0"}, "cc-by-4.0"),
        ({"license": ["mit", "cc0-1.0"]}, "mit, cc0-1.0"),
        ({"license": "other", "license_name": "team\n1.0"}, "team 1.0"),
        ({"license": 5}, None),
        ({}, None),
    ],
)
def test_the_licence_of_data_is_told_in_one_line(front: Any, told: str | None) -> None:
    assert licence_name(front) == told
