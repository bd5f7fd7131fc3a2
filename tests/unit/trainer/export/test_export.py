"""The stage export on a tiny real model: what comes out behaves like what was trained."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraModel
from safetensors.torch import load_file, save_file
from small_job import make_config
from tiny_models import CHATML, LLAMA3, save_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from finetune_trainer import export, merge
from finetune_trainer.config import Lora
from finetune_trainer.errors import GateFailed, PublishRefused, StageError
from finetune_trainer.judging.table import write_rows
from finetune_trainer.model import load_model, load_quantized, lora_config
from finetune_trainer.prepare import stage
from finetune_trainer.same_model import logits as all_logits
from finetune_trainer.same_model import most
from finetune_trainer.smoke_test import QUESTIONS, question_ids

METRICS = {"evalLoss": 0.9, "perplexity": 2.46, "baseline": {"evalLoss": 2.2, "perplexity": 9.03}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    save_tiny_model(folder / "source")
    rows = [{"prompt": f"What is {n}?", "response": "A gang."} for n in range(10)]
    (folder / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    workspace = folder / "ws"
    stage.run(make_config(folder), workspace)
    train(workspace)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path


def train(workspace: Path, lora: Lora | None = None) -> None:
    """Stand in for training: an adapter and full weights that differ from the base."""
    torch.manual_seed(1)
    attempt = workspace / "attempts/0"
    base = load_model(workspace / "model", torch.float32)
    model = get_peft_model(base, lora_config(lora or Lora(rank=4)))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
        if "magnitude" in name:
            weight.data *= 1.5
    model.save_pretrained(attempt / "adapter")
    full = load_model(workspace / "model", torch.float32)
    for weight in full.parameters():
        weight.data += 0.01 * torch.randn_like(weight)
    full.save_pretrained(attempt / "model")
    result = {"step": 10, "steps": 10, "metrics": METRICS, "checkpoints": []}
    (attempt / "result.json").write_text(json.dumps(result))


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    ids = torch.tensor([tokenizer.encode("What is a gang?")])
    with torch.no_grad():
        return model(ids).logits


def run(folder: Path, **changes: Any) -> dict[str, Any]:
    return export.run(make_config(folder, **changes), folder / "ws", folder / "ws/output", 0)


def test_trap_15_merged_weights_answer_like_base_plus_adapter(folder: Path) -> None:
    result = run(folder)
    merged = folder / "ws/output/merged"
    tokenizer = AutoTokenizer.from_pretrained(merged)
    base = AutoModelForCausalLM.from_pretrained(folder / "ws/model")
    plain = logits(base, tokenizer)
    tuned = logits(PeftModel.from_pretrained(base, folder / "ws/output/adapter"), tokenizer)
    exported = logits(AutoModelForCausalLM.from_pretrained(merged), tokenizer)
    assert (tuned - plain).abs().max() > 0.01
    torch.testing.assert_close(exported, tuned, atol=1e-4, rtol=0)
    assert result["artifact"]["formats"] == ["Adapter", "Merged"]
    assert result["artifact"]["maxLogitDifference"] < 1e-4
    assert "quantizationLogitDifference" not in result["artifact"]
    assert result["train"] == {"metrics": METRICS, "step": 10, "steps": 10}


@pytest.mark.parametrize(("rslora", "dora"), [(True, False), (False, True), (True, True)])
def test_trap_15_variants_of_lora_merge_as_their_formulas_say(
    folder: Path, rslora: bool, dora: bool
) -> None:
    """rsLoRA: W + α/√r BA. DoRA: that, brought to the trained size by outputs."""
    lora = {"rank": 4, "rslora": rslora, "dora": dora}
    train(folder / "ws", Lora.model_validate(lora))
    result = run(folder, method={"lora": lora})
    assert result["artifact"]["maxLogitDifference"] < 1e-4
    stable = ", rank-stabilized" if rslora else ""
    method = f"| {'DoRA' if dora else 'LoRA'}, rank 4{stable}, alpha 32, "
    assert method in (folder / "ws/output/merged/README.md").read_text()
    base = load_file(folder / "ws/model/model.safetensors")
    merged = load_file(folder / "ws/output/merged/model.safetensors")
    adapter = load_file(folder / "ws/output/adapter/adapter_model.safetensors")
    prefix, suffix = "base_model.model.", ".lora_A.weight"
    layers = [name.removesuffix(suffix) for name in adapter if name.endswith(suffix)]
    assert layers
    for layer in layers:
        change = adapter[f"{layer}.lora_B.weight"] @ adapter[f"{layer}.lora_A.weight"]
        name = f"{layer.removeprefix(prefix)}.weight"
        expected = base[name] + 32 / (2 if rslora else 4) * change
        if dora:
            sizes = adapter[f"{layer}.lora_magnitude_vector"]
            expected *= (sizes / expected.norm(dim=1))[:, None]
        torch.testing.assert_close(merged[name], expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(merged[name], base[name], atol=1e-3)


def test_an_adapter_of_4_bit_weights_is_merged_into_those_that_they_were_made_from(
    folder: Path,
) -> None:
    """And how far that is from what was trained is told, in the card, too."""
    lora = {"rank": 4, "quantization": "NF4"}
    result = run(folder, method={"lora": lora})
    base = load_file(folder / "ws/model/model.safetensors")
    merged = load_file(folder / "ws/output/merged/model.safetensors")
    adapter = load_file(folder / "ws/output/adapter/adapter_model.safetensors")
    layer = "model.layers.1.mlp.down_proj"
    a, b = (adapter[f"base_model.model.{layer}.lora_{which}.weight"] for which in "AB")
    expected = base[f"{layer}.weight"] + 32 / 4 * b @ a
    torch.testing.assert_close(merged[f"{layer}.weight"], expected, atol=1e-5, rtol=1e-5)

    tokenizer = AutoTokenizer.from_pretrained(folder / "ws/output/merged")
    quantized = load_quantized(folder / "ws/model", torch.float32, torch.device("cpu"))
    trained = PeftModel.from_pretrained(quantized, folder / "ws/output/adapter")
    exported = load_model(folder / "ws/output/merged", torch.float32)
    prompts = [question_ids(tokenizer, text) for text in QUESTIONS]
    apart = most(all_logits(trained, prompts), all_logits(exported, prompts))
    artifact = result["artifact"]
    assert artifact["maxLogitDifference"] < 1e-4
    assert artifact["quantizationLogitDifference"] == pytest.approx(apart, rel=1e-2)
    assert apart > 100 * artifact["maxLogitDifference"]
    card = (folder / "ws/output/merged/README.md").read_text()
    assert "LoRA, rank 4, beside NF4 weights" in card and "| bitsandbytes | 0." in card
    assert "NF4 while it was trained and scored" in card


def test_trap_15_the_adapter_arrives_unchanged(folder: Path) -> None:
    run(folder)
    file = "adapter/adapter_model.safetensors"
    before = load_file(folder / "ws/attempts/0" / file)
    after = load_file(folder / "ws/output" / file)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    settings = json.loads((folder / "ws/output/adapter/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "source"


def test_full_weights_are_exported_as_the_merged_model(folder: Path) -> None:
    result = run(folder, method={}, output={"formats": ["Merged"]})
    trained = load_file(folder / "ws/attempts/0/model/model.safetensors")
    exported = load_file(folder / "ws/output/merged/model.safetensors")
    assert all(torch.equal(trained[name], exported[name]) for name in trained)
    assert result["artifact"]["formats"] == ["Merged"]
    assert result["artifact"]["maxLogitDifference"] == 0


def test_a_template_that_stumbles_over_a_lone_question_is_given_none(tmp_path: Path) -> None:
    """It was of use for the data; the end of the job is too late to refuse it."""
    model = save_tiny_model(tmp_path, template=CHATML + "{{ 1 // (messages | length - 1) }}")
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert question_ids(tokenizer, "Who?").tolist() == [tokenizer.encode("Who?")]


def test_tokenizer_template_stop_token_and_card_come_along(folder: Path) -> None:
    run(folder)
    merged = folder / "ws/output/merged"
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert tokenizer.chat_template == CHATML
    assert GenerationConfig.from_pretrained(merged).eos_token_id == tokenizer.eos_token_id
    card = (merged / "README.md").read_text()
    assert "| loss | 2.2 | 0.9 |" in card
    assert "answers" not in card and not (merged / "answers.html").exists()
    assert json.loads((folder / "ws/data/manifest.json").read_text())["digest"] in card


def python_of(card: Path, **places: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(), re.S)
    code = code.replace("max_new_tokens=64", "max_new_tokens=8")
    for name, path in places.items():
        code = code.replace(name, str(path))
    return code


def test_the_code_of_the_card_loads_the_model_and_asks_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder)
    merged, adapter = folder / "ws/output/merged", folder / "ws/output/adapter"
    exec(python_of(merged / "README.md", PATH_OR_REPOSITORY=merged), {})
    base = folder / "ws/model"
    places = {"PATH_OR_REPOSITORY": adapter, "PATH_OF_THE_BASE_MODEL": base}
    exec(python_of(adapter / "README.md", **places), {})
    first, second = capsys.readouterr().out.splitlines()
    assert first == second, "adapter and merged weights say the same"


@pytest.mark.parametrize("form", ["Merged", "Adapter"])
def test_the_model_that_is_published_was_loaded_and_asked(folder: Path, form: str) -> None:
    told = run(folder, output={"formats": [form]})["artifact"]["smokeTest"]
    assert told["prompt"] == "What can you help me with?" and told["tokens"] >= 1
    merged = run(folder)["artifact"]["smokeTest"]
    assert told == merged, "an adapter is asked together with its base"


def test_a_model_that_cannot_answer_is_not_published(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_dumb(path: Path, dtype: torch.dtype) -> Any:
        model = load_model(path, dtype)
        if path.parent.name.startswith(".merged."):
            model.generation_config.eos_token_id = "no number"
        return model

    monkeypatch.setattr(merge, "load_model", load_dumb)
    monkeypatch.setattr(merge, "_check_tokenizer", lambda *_: None)
    with pytest.raises(StageError, match="was loaded and cannot answer: "):
        run(folder)
    assert not (folder / "ws/output/merged").exists()


def test_the_manifest_that_serves_it_lies_beside_the_model(folder: Path) -> None:
    (folder / "serving.yaml").write_text("kind: Deployment")
    export.run(make_config(folder), folder / "ws", folder / "ws/output", 0, folder / "serving.yaml")
    assert (folder / "ws/output/serving.yaml").read_text() == "kind: Deployment"
    names = sorted(path.name for path in (folder / "ws/output").iterdir())
    assert names == ["adapter", "merged", "serving.yaml"]


def test_the_table_of_answers_and_its_scores_come_along(folder: Path) -> None:
    attempt = folder / "ws/attempts/0"
    metrics = {**METRICS, "bleu": 31.25, "baseline": {**METRICS["baseline"], "bleu": 2.5}}
    result = json.loads((attempt / "result.json").read_text())
    result |= {"metrics": metrics, "signatures": {"bleu": "nrefs:1|version:2"}}
    (attempt / "result.json").write_text(json.dumps(result))
    for name in ("answers.jsonl", "answers.html"):
        (attempt / name).write_text(name)
    told = run(folder, evaluation={"generation": {}})
    assert told["train"]["metrics"]["bleu"] == 31.25
    for place in ("adapter", "merged"):
        published = folder / "ws/output" / place
        assert (published / "answers.html").read_text() == "answers.html"
        assert (published / "answers.jsonl").read_text() == "answers.jsonl"
        card = (published / "README.md").read_text()
        assert "| BLEU | 2.5 | 31.25 |" in card and "(answers.html)" in card
        assert "BLEU: `nrefs:1|version:2`." in card


def test_a_loss_that_is_not_a_number_opens_no_gate_and_stands_in_the_card(folder: Path) -> None:
    metrics = {**METRICS, "evalLoss": "NaN"}
    path = folder / "ws/attempts/0/result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": metrics}))
    shut = {"scores": [{"metric": "EvalLoss", "atMost": 3}]}
    with pytest.raises(GateFailed, match="evalLoss is nan and has to be at most 3"):
        run(folder, gate=shut)
    assert run(folder)["train"]["metrics"] == metrics
    card = (folder / "ws/output/merged/README.md").read_text()
    assert "| 2.2 | NaN |" in card
    json.loads((folder / "ws/output/merged/manifest.json").read_text(), parse_constant=pytest.fail)


def test_a_model_that_the_gate_holds_back_is_not_published(folder: Path) -> None:
    shut = {"scores": [{"metric": "EvalLoss", "minImprovement": 1.5}]}
    with pytest.raises(GateFailed, match=r"evalLoss is 0\.9 after 2\.2 .* by at least 1\.5"):
        run(folder, gate=shut)
    assert not (folder / "ws/output").exists()
    assert (folder / "ws/attempts/0/adapter/adapter_model.safetensors").exists()
    told = run(folder, gate={"scores": [{"metric": "EvalLoss", "minImprovement": 1.2}]})
    assert told["gate"] == {"message": "evalLoss is 0.9 (untouched model: 2.2)"}
    assert told["artifact"]["step"] == 10


PEOPLE = {"evaluation": {"generation": {}, "human": {"configMap": "bot-ratings"}}}


def write_answers(folder: Path, tuned: str = "A gang.") -> None:
    """The table that training leaves."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is {n}?"}],
            "reference": "A gang.",
            "base": {"text": "What?"},
            "tuned": {"text": tuned},
        }
        for n in range(4)
    ]
    write_rows(folder / "ws/attempts/0/answers.jsonl", rows)


def test_a_model_that_people_have_to_rate_is_published_once_they_have(folder: Path) -> None:
    write_answers(folder)
    scores = [{"metric": "EvalLoss", "atMost": 1.0}]
    told = run(folder, **PEOPLE, gate={"scores": scores, "human": {}})
    assert "artifact" not in told and "gate" not in told
    assert told["train"]["metrics"] == METRICS
    digest, output = told["rating"]["bundle"], folder / "ws/output"
    assert told["rating"] == {"bundle": digest, "items": 4, "same": 0}
    assert [path.name for path in output.iterdir()] == ["rating"]
    page = (output / "rating/rate.html").stat()
    key = json.loads((folder / "ws/attempts/0/rating-key.json").read_text())
    assert key["bundle"] == digest and len(key["tunedIsA"]) == 2

    said = {"bundle": digest, "finding": "the win rate is 0.8"}
    told = run(folder, **PEOPLE, gate={"scores": scores, "human": said})
    assert told["artifact"]["formats"] == ["Adapter", "Merged"]
    assert told["gate"]["message"] == "evalLoss is 0.9 (untouched model: 2.2); the win rate is 0.8"
    card = (output / "merged/README.md").read_text()
    assert "People compared them blind: the win rate is 0.8." in card
    assert (output / "rating/rate.html").stat() == page, "frozen"


def test_people_never_let_other_answers_pass_than_those_they_rated(folder: Path) -> None:
    write_answers(folder)
    said = {"bundle": "sha256:other", "finding": "the win rate is 0.8"}
    with pytest.raises(GateFailed, match=r"people have rated another bundle \(sha256:other\)"):
        run(folder, **PEOPLE, gate={"human": said})
    write_answers(folder, tuned="What?")
    with pytest.raises(GateFailed, match="these do not differ, or are not there"):
        run(folder, **PEOPLE, gate={"human": {}})
    assert not (folder / "ws/output").exists()
    told = run(folder, **PEOPLE)
    assert "artifact" in told and "rating" not in told


def test_without_a_gate_the_bundle_lies_beside_the_published_model(folder: Path) -> None:
    write_answers(folder)
    told = run(folder, **PEOPLE)
    assert told["rating"]["items"] == 4 and "artifact" in told
    assert {path.name for path in (folder / "ws/output").iterdir()} == {
        "adapter", "merged", "rating",
    }  # fmt: skip


def test_an_end_of_turn_that_is_not_eos_becomes_a_stop_token(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "source", LLAMA3)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "source")
    row = {"prompt": "What?", "response": "A gang."}
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(row)}\n")
    stage.run(make_config(tmp_path), tmp_path / "ws")
    train(tmp_path / "ws")
    run(tmp_path, output={"formats": ["Merged"]})
    stops = GenerationConfig.from_pretrained(tmp_path / "ws/output/merged").eos_token_id
    assert stops == [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|eot|>")]


def test_the_newest_attempt_with_weights_is_the_one_to_export(folder: Path) -> None:
    attempts = folder / "ws/attempts"
    shutil.copytree(attempts / "0", attempts / "10")
    shutil.copytree(attempts / "0", attempts / "9")
    (attempts / "11/logs").mkdir(parents=True)
    assert export.newest_attempt(make_config(folder), folder / "ws") == 10
    shutil.rmtree(attempts)
    with pytest.raises(StageError, match="no training attempt left weights"):
        export.newest_attempt(make_config(folder), folder / "ws")


def test_the_report_on_the_data_goes_with_the_model(folder: Path) -> None:
    export.run(make_config(folder), folder / "ws", folder / "out", 0)
    for name in ("report.json", "report.html"):
        made = (folder / "ws/data" / name).read_bytes()
        assert made
        for form in ("adapter", "merged"):
            assert (folder / "out" / form / f"data-{name}").read_bytes() == made


def test_repeating_an_export_changes_nothing(folder: Path) -> None:
    first = run(folder)
    (folder / "ws/output/.merged.uid-one.dead").mkdir()
    assert run(folder) == first
    assert sorted(p.name for p in (folder / "ws/output").iterdir()) == ["adapter", "merged"]


def test_a_push_that_fails_leaves_the_result_and_the_next_export_does_not_touch_it(
    folder: Path,
) -> None:
    """The registry asks for a login that the Secret does not have."""
    oci = {"image": "registry.test/bot:1", "loginPath": str(folder / "nothing")}
    wish = {"name": "reg", "field": "spec.output.destinations[0]", "format": "Merged", "oci": oci}
    output = {"formats": ["Adapter", "Merged"], "destinations": [wish]}
    checkpoint = folder / "ws/attempts/1/checkpoints/step-5"
    checkpoint.mkdir(parents=True)
    with pytest.raises(PublishRefused, match=r"spec\.output\.destinations\[0\]\.oci \(reg\)"):
        run(folder, output=output, checkpoint={"afterSuccess": "Delete"})
    assert checkpoint.exists(), "nothing is removed before all is done"
    weights = folder / "ws/output/merged/model.safetensors"
    known = weights.stat().st_ino
    assert run(folder)["artifact"]["smokeTest"]["tokens"] >= 1
    assert weights.stat().st_ino == known
    shutil.copytree(folder / "ws/attempts/0", folder / "ws/attempts/2")
    export.run(make_config(folder), folder / "ws", folder / "ws/output", 2)
    assert weights.stat().st_ino != known, "another attempt's weights are another result"


@pytest.mark.parametrize(("wish", "left"), [("Keep", True), ("Delete", False)])
def test_checkpoints_stay_or_go_once_the_result_is_published(
    folder: Path, wish: str, left: bool
) -> None:
    checkpoint = folder / "ws/attempts/1/checkpoints/step-5"
    checkpoint.mkdir(parents=True)
    (checkpoint / "rank-0.safetensors").write_bytes(b"state")
    run(folder, checkpoint={"afterSuccess": wish})
    assert checkpoint.exists() == left
    assert (folder / "ws/attempts/0/adapter/adapter_model.safetensors").exists()
    assert (folder / "ws/output/merged/model.safetensors").exists()


def test_another_jobs_output_is_moved_aside_not_deleted(folder: Path) -> None:
    run(folder)
    run(folder, job={"namespace": "team", "name": "bot", "uid": "uid-two"})
    names = sorted(p.name for p in (folder / "ws/output").iterdir())
    assert names == ["adapter", "adapter.replaced-uid-one", "merged", "merged.replaced-uid-one"]


def forget(adapter: Path) -> None:
    """As before the first step."""
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({n: t * 0 if "lora_B" in n else t for n, t in weights.items()}, file)


def spoil(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def apply(adapter: Path) -> None:
        file = adapter / "adapter_model.safetensors"
        tensors = load_file(file)
        name = sorted(tensors)[0]
        save_file({**tensors, name: change(tensors[name])}, file)

    return apply


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (spoil(lambda t: torch.zeros(0)), "is empty; the weights were not gathered"),
        (spoil(lambda t: t * float("nan")), "holds values that are not finite"),
        (forget, "training changed nothing: every lora_B of the adapter is zero"),
        (lambda a: (a / "adapter_model.safetensors").unlink(), "holds no safetensors file"),
        (lambda a: shutil.rmtree(a), "training attempt 0 left no weights"),
    ],
)
def test_traps_15_16_s14_damaged_weights_are_not_published(
    folder: Path, damage: Callable[[Path], None], says: str
) -> None:
    damage(folder / "ws/attempts/0/adapter")
    with pytest.raises(StageError, match=says):
        run(folder)
    assert not (folder / "ws/output/merged").exists()


def test_a_model_that_reloads_differently_is_not_published(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_spoilt(path: Path, dtype: torch.dtype) -> Any:
        model = load_model(path, dtype)
        if path.parent.name.startswith(".merged."):
            model.get_input_embeddings().weight.data *= 1.01
        return model

    monkeypatch.setattr(merge, "load_model", load_spoilt)
    with pytest.raises(merge.ExportMismatchError, match="logits differ by"):
        run(folder)
    assert not (folder / "ws/output/merged").exists()


def test_a_merge_that_loses_the_adapter_is_not_published(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its logits differ by no more than rounding may move them."""
    monkeypatch.setattr(merge, "compare", lambda *_: 0.0)
    monkeypatch.setattr(LoraModel, "merge_and_unload", lambda self, **_: self.unload())
    with pytest.raises(merge.ExportMismatchError, match="0% of what the adapter changed"):
        run(folder)
    assert not (folder / "ws/output/merged").exists()
