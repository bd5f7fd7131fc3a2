"""A tokenizer with more tokens than the model has embeddings: nothing is resized in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import save_tiny_model
from transformers import AutoTokenizer
from unit.trainer.prepare.test_stage import chat, config, write

from finetune_trainer.errors import ModelLoad
from finetune_trainer.prepare import stage


def test_trap_17_a_token_that_the_model_does_not_know_is_refused_with_its_row(
    tmp_path: Path,
) -> None:
    model = save_tiny_model(tmp_path / "model", tied=False)
    tokenizer = AutoTokenizer.from_pretrained(model)
    known = len(tokenizer)
    tokenizer.add_tokens(["<added>"])
    tokenizer.save_pretrained(model)
    stage.run(config(model, write(tmp_path / "a.jsonl", [chat(0)] * 3), evalFraction=0),
              tmp_path / "unused")  # fmt: skip
    rows = write(tmp_path / "b.jsonl", [chat(0), chat(1, "An <added> gang.")])
    with pytest.raises(ModelLoad) as caught:
        stage.run(config(model, rows, evalFraction=0), tmp_path / "ws")
    assert caught.value.message == (
        "spec.model.uri: tokenizer and model do not belong together: spec.data.train[0]: "
        f"b.jsonl line 2 has token {known}, and the model knows {known}"
    )
