"""GGUF files: made from what was trained, read again, and refused before anything is trained.

That llama.cpp reads them as transformers does: tests/architectures/test_llama_cpp.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures.cells import ARCHITECTURES, SIZES
from gguf import GGUFReader
from small_job import make_config
from tiny_models import CHATML, make_tokenizer, save_tiny_model
from tokenizers import AddedToken, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from unit.trainer.export.test_export import train

from finetune_trainer import export, reuse
from finetune_trainer.config import Lock, RunConfig
from finetune_trainer.errors import ConfigInvalid, StageError
from finetune_trainer.gguf_export import export as gguf_export
from finetune_trainer.gguf_export import proof, vocabulary, write
from finetune_trainer.gguf_export.support import check_support
from finetune_trainer.prepare import stage
from finetune_trainer.prepare.manifest import read_manifest
from finetune_trainer.publishing.image import build_image
from finetune_trainer.same_model import ExportMismatchError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    save_tiny_model(folder / "source", tied=False)
    (folder / "source/README.md").write_text("---\nlicense: apache-2.0\n---\n")
    rows = [{"prompt": f"What is {n}?", "response": "A gang."} for n in range(10)]
    (folder / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    stage.run(make_config(folder, output={"formats": ["GGUF"]}), folder / "ws")
    train(folder / "ws")
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path


def wish(folder: Path, **output: Any) -> RunConfig:
    return make_config(folder, output={"formats": ["GGUF"], **output})


def run(config: RunConfig, folder: Path, **options: Any) -> dict[str, Any]:
    return export.run(config, folder / "ws", folder / "ws/output", 0, **options)


def fields(file: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in GGUFReader(file).fields.items()}


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_the_file_is_the_trained_model(folder: Path, kind: str) -> None:
    told = run(wish(folder, ggufType=kind), folder)["artifact"]
    place = folder / "ws/output/gguf"
    assert told["formats"] == ["GGUF"]
    assert told["smokeTest"]["prompt"] == "What can you help me with?"
    limit = {"F32": 1e-5, "F16": 5e-3, "BF16": 5e-2, "Q8_0": 0.2}[kind]
    assert told["maxLogitDifference"] < limit
    assert {path.name for path in place.iterdir()} == {
        "README.md", "data-report.html", "data-report.json", "manifest.json", "model.gguf",
    }  # fmt: skip
    assert sorted(path.name for path in (folder / "ws/output").iterdir()) == ["gguf"]
    assert not list((folder / "ws").glob(".merged*")), "the model it was made from is gone"
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest["type"] == kind
    types = {tensor.tensor_type.name for tensor in GGUFReader(place / "model.gguf").tensors}
    assert types == {"F32", kind}, "norms are F32"


def test_the_file_says_what_it_is_and_how_to_ask_it(folder: Path) -> None:
    run(wish(folder), folder)
    told = fields(folder / "ws/output/gguf/model.gguf")
    tokenizer = make_tokenizer()
    expected = {
        "general.architecture": "llama",
        "general.name": "bot",
        "general.license": "apache-2.0",
        "general.base_model.0.name": "source",
        "tokenizer.chat_template": CHATML,
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.add_bos_token": False,
        "llama.attention.head_count_kv": 2,
    }
    assert {key: told[key] for key in expected} == expected
    card = (folder / "ws/output/gguf/README.md").read_text()
    assert "llama-server --model PATH_OR_REPOSITORY/model.gguf --alias bot --jinja" in card
    assert "FROM PATH_OR_REPOSITORY/model.gguf" in card and "library_name: llama.cpp" in card


def test_it_is_made_beside_the_merged_model_in_any_order(folder: Path) -> None:
    config = wish(folder, formats=["GGUF", "Merged", "Adapter"], ggufType="F32")
    serving = folder / "serving.yaml"
    serving.write_text("served: true")
    told = run(config, folder, serving=serving)["artifact"]
    output = folder / "ws/output"
    assert told["formats"] == ["Adapter", "Merged", "GGUF"]
    assert sorted(p.name for p in output.iterdir()) == ["adapter", "gguf", "merged", "serving.yaml"]
    again = AutoModelForCausalLM.from_pretrained(output / "gguf", gguf_file="model.gguf")
    whole = AutoModelForCausalLM.from_pretrained(output / "merged")
    ids = torch.arange(1, 30)[None]
    torch.testing.assert_close(again(ids).logits, whole(ids).logits, atol=1e-5, rtol=1e-5)


def test_full_fine_tuning_has_a_file_too(folder: Path) -> None:
    config = make_config(folder, method={}, output={"formats": ["GGUF"]})
    assert run(config, folder)["artifact"]["formats"] == ["GGUF"]


def test_an_export_that_comes_again_keeps_the_file(folder: Path) -> None:
    first = run(wish(folder), folder)
    before = (folder / "ws/output/gguf/model.gguf").stat().st_mtime_ns
    assert run(wish(folder), folder) == first
    assert (folder / "ws/output/gguf/model.gguf").stat().st_mtime_ns == before


def test_all_tokens_that_end_an_answer_are_named(folder: Path) -> None:
    def merged_with_stops(*arguments: Any) -> Any:
        found = merge(*arguments)
        GenerationConfig(eos_token_id=[6, 3, 0]).save_pretrained(arguments[3])
        return found

    merge = export.merge
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "merge", merged_with_stops)
        run(wish(folder), folder)
    told = fields(folder / "ws/output/gguf/model.gguf")
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    assert [told[f"tokenizer.ggml.{key}"] for key in keys] == [3, 6, 0], "EOS itself comes first"


def swapped(architecture: Any, config: Any, name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor  # llama.cpp would turn the wrong pairs


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
def test_a_file_that_behaves_differently_is_not_published(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    attempt = folder / "ws/attempts/0/model"
    full = AutoModelForCausalLM.from_pretrained(attempt)
    for weight in full.parameters():
        weight.data *= 8 if weight.ndim > 1 else 1  # with tiny ones no layer says much
    full.save_pretrained(attempt)
    monkeypatch.setattr(write, "laid_out", swapped)
    config = make_config(folder, method={}, output={"formats": ["GGUF"], "ggufType": kind})
    with pytest.raises(ExportMismatchError, match="the GGUF file's logits differ by"):
        run(config, folder)
    assert not (folder / "ws/output/gguf").exists()
    assert not list((folder / "ws").glob(".merged*"))


def test_a_file_with_another_tokenizer_is_not_published(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "_merges", lambda merges: (" ".join(m) for m in merges[:3]))
    with pytest.raises(ExportMismatchError, match="makes other tokens of 'What can you"):
        run(wish(folder), folder)
    assert not (folder / "ws/output/gguf").exists()


def test_a_file_with_other_hyperparameters_is_not_published(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told_wrong(writer: Any, config: Any) -> None:
        config.rms_norm_eps *= 2
        add(writer, config)

    add = write.add_hyperparameters
    monkeypatch.setattr(write, "add_hyperparameters", told_wrong)
    with pytest.raises(ExportMismatchError, match=r"model\.gguf says rms_norm_eps"):
        run(wish(folder), folder)


def test_a_weight_too_large_for_16_bits_is_named(folder: Path) -> None:
    attempt = folder / "ws/attempts/0/model"
    model = AutoModelForCausalLM.from_pretrained(attempt)
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = 70000.0
    model.save_pretrained(attempt)
    config = make_config(folder, method={}, output={"formats": ["GGUF"]})
    with pytest.raises(StageError, match=r"gguf\.type: model\.layers\.1\.mlp.* 7e\+04, and F16"):
        run(config, folder)


def test_the_weights_are_a_layer_of_the_image(folder: Path) -> None:
    run(wish(folder), folder)
    names = [tuple(name for name, _ in blob.files) for blob in build_image(
        folder / "ws/output/gguf", {}).blobs]  # fmt: skip
    assert names[0] == ("model.gguf",) and "README.md" in names[1]


def test_a_file_of_what_was_trained_beside_4_bit_weights_tells_how_far_it_is(folder: Path) -> None:
    method = {"lora": {"rank": 4, "quantization": "NF4"}}
    config = make_config(folder, output={"formats": ["GGUF"]}, method=method)
    assert run(config, folder)["artifact"]["quantizationLogitDifference"] > 1e-3


def test_a_result_is_taken_with_weights_of_the_wanted_type_only(folder: Path) -> None:
    made = {name: read_manifest(folder / "ws" / name)["digest"] for name in ("model", "data")}
    lock = Lock(digest="sha256:lock", spec="s", image="i", seed=1, **made)
    run(wish(folder), folder, lock=lock)

    def taken(kind: str) -> dict[str, Any]:
        config = wish(folder, ggufType=kind)
        return reuse.reuse_result(config, lock, "bot", folder / "ws/output", folder / "new")

    assert taken("Q8_0") == {"refused": "gguf has weights of type F16, not Q8_0"}
    assert taken("F16")["artifact"]["formats"] == ["GGUF"]


# before training


def save_config(folder: Path, kind: str, tokenizer: Any, **sizes: Any) -> None:
    rows = len(tokenizer) + 8  # classes of tokenizers bring tokens of their own
    config = getattr(transformers, kind)(vocab_size=rows, bos_token_id=None, **sizes)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_is_taken_or_refused_by_its_architecture(tmp_path: Path, name: str) -> None:
    kind, sizes = ARCHITECTURES[name]
    save_config(tmp_path, kind, make_tokenizer(), **sizes)
    if name in ("Llama", "Qwen2", "Qwen3"):
        check_support(tmp_path, name)
        return
    with pytest.raises(ConfigInvalid) as caught:
        check_support(tmp_path, name)
    assert caught.value.message.startswith(
        f"spec.output.formats: GGUF is not supported for this {name}: "
    )
    says = "sees 12 of 128 tokens" if name == "Mistral" else "is not among llama, mistral, qwen2"
    assert says in caught.value.message and "take Merged" in str(caught.value.hint)


YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_act": "gelu"}, "its activation function is gelu"),
        ({"attention_bias": True}, "its linear layers have biases"),
        ({"rope_parameters": YARN}, r"its position embedding is scaled \(yarn\)"),
        ({"vocab_size": 100}, "has no row in the embedding of 100"),
    ],
)
def test_a_llama_of_another_kind_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    save_config(tmp_path, "LlamaConfig", make_tokenizer(), **SIZES)
    config = AutoConfig.from_pretrained(tmp_path)
    for key, value in changes.items():
        setattr(config, key, value)
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigInvalid, match=says):
        check_support(tmp_path, "LlamaForCausalLM")


def metaspace(backend: Any) -> None:
    backend.pre_tokenizer = pre_tokenizers.Metaspace()


def words(backend: Any) -> None:
    backend.model = models.WordLevel({"<s>": 0, "a": 1}, unk_token="<s>")


def prefixed(backend: Any) -> None:
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def lowered(backend: Any) -> None:
    from tokenizers import normalizers

    backend.normalizer = normalizers.Lowercase()


def trimmed(backend: Any) -> None:
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True)])


def ended(backend: Any) -> None:
    backend.post_processor = processors.TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", backend.token_to_id("<|end|>"))]
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (metaspace, "no name for the way its tokenizer splits text"),
        (prefixed, "no name for the way its tokenizer splits text"),
        (words, "its tokenizer is no byte-level BPE"),
        (lowered, r"its tokenizer changes text first \(Lowercase\)"),
        (trimmed, "its token '<mask>' takes white space in"),
        (ended, "adds other tokens to a text than BOS in front"),
    ],
)
def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused(
    tmp_path: Path, change: Callable[[Any], None], says: str
) -> None:
    tokenizer = make_tokenizer()
    change(tokenizer.backend_tokenizer)
    save_config(tmp_path, "LlamaConfig", tokenizer, **SIZES)
    with pytest.raises(ConfigInvalid, match=says):
        check_support(tmp_path, "LlamaForCausalLM")


def test_prepare_refuses_it_before_it_reads_data(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "source")
    config = AutoConfig.from_pretrained(tmp_path / "source")
    config.hidden_act = "gelu"
    config.save_pretrained(tmp_path / "source")
    with pytest.raises(ConfigInvalid, match="GGUF is not supported for this LlamaForCausalLM"):
        stage.run(wish(tmp_path), tmp_path / "ws")
    assert not (tmp_path / "ws/data").exists()
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 3)
    stage.run(make_config(tmp_path), tmp_path / "ws")


def test_numbers_of_the_file_are_compared_as_fp32() -> None:
    assert proof._same(1e-5, 9.999999747378752e-06) and not proof._same(1e-5, 1e-6)
    assert gguf_export._PRECISIONS.keys() == write._FILE_TYPES.keys()
