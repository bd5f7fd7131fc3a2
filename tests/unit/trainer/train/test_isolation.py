"""Models that mix packed samples are found out before they train; dropout is what we set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.trainer.train.tiny import VOCABULARY, random_rows, tiny_llama, write_rows

from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.isolation import require_isolation
from finetune_trainer.model import load_model
from finetune_trainer.prepare.store import PackedDataset


@dataclass
class Unsharded:
    """A model as the engine hands it on, without ranks."""

    model: Any
    precision: str = "FP32"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def eval(self) -> None:
        self.model.eval()

    def train(self) -> None:
        self.model.train()

    def __call__(self, **inputs: Any) -> Any:
        return self.model(**inputs)


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    )


def bloom() -> Any:
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(
        BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)
    )  # fmt: skip


def mamba() -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)
    )


@pytest.fixture
def rows(tmp_path: Path) -> PackedDataset:
    write_rows(tmp_path / "rows", random_rows(1, [[12], [7, 9], [5]]))
    return PackedDataset(tmp_path / "rows")


def test_models_that_restart_with_the_positions_pass(rows: PackedDataset) -> None:
    for model in (tiny_llama(), gpt2()):
        engine: Any = Unsharded(model)
        require_isolation(engine, rows, logits_to_keep=False)
        assert model.training


@pytest.mark.parametrize("build", [bloom, mamba])
def test_models_that_mix_neighbours_are_refused_with_the_field(
    build: Any, rows: PackedDataset
) -> None:
    torch.manual_seed(0)
    engine: Any = Unsharded(build())
    with pytest.raises(ConfigInvalid, match=r"spec\.data\.packing: this model does not keep"):
        require_isolation(engine, rows, logits_to_keep=False)


def test_rows_of_one_sample_each_ask_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", random_rows(1, [[12], [5]]))
    engine: Any = Unsharded(bloom())
    require_isolation(engine, PackedDataset(tmp_path / "rows"), logits_to_keep=False)


def test_dropout_of_the_model_itself_is_ours_to_set(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path)  # its configuration has 0.1 of its own
    for wanted in (0.0, 0.3):
        loaded = load_model(tmp_path, torch.float32, dropout=wanted)
        found = {layer.p for layer in loaded.modules() if isinstance(layer, torch.nn.Dropout)}
        assert found == {wanted}
