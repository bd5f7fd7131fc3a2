"""Models that mix packed samples are found out before they train; dropout is what we set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.trainer.train.tiny import VOCABULARY, random_rows, tiny_llama, write_rows

from finetune_trainer.batches import IGNORE
from finetune_trainer.costs import Costs
from finetune_trainer.model import load_model
from finetune_trainer.prepare.packable import mixes_samples
from finetune_trainer.prepare.store import PackedDataset
from finetune_trainer.self_test.packing import packing_fault
from finetune_trainer.self_test.pieces import Piece, pieces_of


@dataclass
class Unsharded:
    """A model as the engine hands it on, without ranks."""

    model: Any
    precision: str = "FP32"
    head: None = None
    costs = Costs(token=1, target=1, pair=1)

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


def lfm2() -> Any:
    from transformers import Lfm2Config, Lfm2ForCausalLM

    return Lfm2ForCausalLM(
        Lfm2Config(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            layer_types=["conv", "full_attention"],
        )
    )


def gpt_oss() -> Any:
    """Its layers are named like those that keep a state, and keep none."""
    from transformers import GptOssConfig, GptOssForCausalLM

    return GptOssForCausalLM(
        GptOssConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            num_local_experts=2,
        )
    )


def mamba() -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)
    )


@pytest.fixture
def pieces(tmp_path: Path) -> list[Piece]:
    write_rows(tmp_path / "rows", random_rows(1, [[12], [7, 9], [5]]))
    return pieces_of(PackedDataset(tmp_path / "rows"))


def fault_of(model: Any, pieces: list[Piece]) -> str | None:
    model.eval()
    return packing_fault(Unsharded(model), pieces, logits_to_keep=False)[0]  # type: ignore[arg-type]


def test_models_that_restart_with_the_positions_pass(pieces: list[Piece]) -> None:
    assert fault_of(tiny_llama(), pieces) is None
    assert fault_of(gpt2(), pieces) is None


@pytest.mark.parametrize("build", [bloom, mamba])
def test_models_that_mix_neighbours_are_refused_with_the_field(
    build: Any, pieces: list[Piece]
) -> None:
    torch.manual_seed(0)
    fault = fault_of(build(), pieces)
    assert fault is not None
    assert fault.startswith("spec.data.packing: this model does not keep packed samples apart")


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (tiny_llama, None),
        (gpt2, None),
        (bloom, "it takes no position ids"),
        (mamba, "it takes no position ids"),
        (gpt_oss, None),
        (lfm2, "it has recurrent layers (Lfm2ShortConv, conv)"),
    ],
)
def test_prepare_knows_it_from_the_structure(build: Any, says: str | None) -> None:
    with torch.device("meta"):
        assert mixes_samples(build()) == says


def test_a_piece_is_cut_around_the_first_target() -> None:
    ids = torch.arange(100, 140)
    labels = torch.full_like(ids, IGNORE)
    labels[30:] = ids[30:]
    two = torch.cat([torch.arange(0, 10), torch.arange(0, 30)])
    (piece,) = pieces_of(Rows([Piece(ids, two, labels)]))  # type: ignore[arg-type]
    assert piece.input_ids.tolist() == list(range(122, 138))
    assert piece.labels.tolist() == [IGNORE] * 8 + list(range(130, 138))
    assert piece.position_ids.tolist() == list(range(16))


class Rows(list[Piece]):
    def row(self, index: int) -> Piece:
        return self[index]


def test_dropout_of_the_model_itself_is_ours_to_set(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path)  # its configuration has 0.1 of its own
    for wanted in (0.0, 0.3):
        loaded = load_model(tmp_path, torch.float32, dropout=wanted)
        found = {layer.p for layer in loaded.modules() if isinstance(layer, torch.nn.Dropout)}
        assert found == {wanted}
