"""The cases of the section "GPU" are jobs that the trainer takes; its figures are arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import gpu, training_data
from benchmarks.gpu import Case, Told
from benchmarks.gpu_peer import Settings
from benchmarks.gpu_rank import FORMS
from benchmarks.gpu_section import SETS, _table
from benchmarks.training_peers import MODES
from finetune_trainer.config import RunConfig

CASES = [case for cases in SETS.values() for case in cases]


def named(case: Case) -> str:
    return f"{case.model} {case.name}"


@pytest.mark.parametrize("case", [case for case in CASES if case.peer], ids=named)
def test_each_peer_has_settings_that_it_takes(case: Case) -> None:
    settings = Settings(**gpu.peer_settings(case, Path("/model"), Path("/data")))
    assert settings.mode in MODES
    assert (settings.lora is None) == (case.lora == 0)
    assert settings.steps == gpu.WARM_UP + case.steps


@pytest.mark.parametrize("case", [case for case in CASES if not case.peer], ids=named)
def test_each_case_is_a_job(case: Case) -> None:
    config = RunConfig.model_validate(gpu._run_json(case, Path("/model")))
    assert config.training.steps == gpu.WARM_UP + case.steps
    assert (config.method.lora is None) == (case.lora == 0)
    assert config.workers.device == "GPU"
    assert set(filter(None, case.without.split(","))) <= FORMS.keys()


def test_names_of_a_model_s_cases_differ() -> None:
    for cases in SETS.values():
        assert len({case.name for case in cases}) == len(cases)


def test_the_share_of_the_peak_counts_four_flops_with_lora_and_six_without() -> None:
    whole = Told(Case("full", "1B"), speed=gpu.PEAK_FLOPS / 6e9)
    adapted = Told(Case("LoRA", "8B", lora=16), speed=gpu.PEAK_FLOPS / 6e9)
    assert whole.mfu(10**9) == pytest.approx(1)
    assert adapted.mfu(10**9) == pytest.approx(4 / 6)


def test_the_table_has_what_was_measured_beside_the_plan_and_what_failed() -> None:
    told = Told(
        Case("full", "1B"),
        speed=50_000,
        step_seconds=[1.0, 3.0, 2.0],
        memory={"used": 50_000_000_000},
        predicted=45_000_000_000,
    )
    text = _table("1B", [told, Told(Case("too large", "1B"), error="out of memory")], 10**9)
    assert "| full | 50,000 | 30.3% | 2.000 s (1.000–3.000) | 50.0 GB | 45.0 GB (-10%) |" in text
    assert "| too large | failed |" in text


def test_rows_are_full_and_hold_samples_of_many_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer.prepare.store import PackedDataset

    monkeypatch.setattr(gpu, "TOKENS", 256)
    gpu.write_rows("full", tmp_path / "full", rows=4)
    gpu.write_rows("chat", tmp_path / "chat", rows=16)
    full, chat = (PackedDataset(tmp_path / kind / "train") for kind in ("full", "chat"))
    assert list(full.row_lengths) == [256] * 4
    assert list(full.num_supervised) == [255] * 4
    assert sum(chat.row_lengths) > 0.9 * 256 * len(chat)
    for kind, packed in (("full", full), ("chat", chat)):
        theirs = training_data.load(tmp_path / kind / "samples.npz")
        assert sum(theirs.lengths) == packed.num_tokens
        supervised = [int(theirs.sample(n)[1].sum()) for n in range(len(theirs.lengths))]
        assert sum(supervised) == sum(packed.num_supervised)
