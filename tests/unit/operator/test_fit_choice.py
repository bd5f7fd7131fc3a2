"""Micro-batch, checkpointing and stage that the spec leaves open: the cheapest that fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import make_plan, make_spec
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.types import Adaptation, FineTuneJobStatus, PlannedFit, Resolved
from finetune_operator.fit_choice import Open, candidates, choose, kept
from finetune_operator.memory_ladder import Fit

DEFAULT = Fit(4, 2, activation_checkpointing=False, zero_stage=2, world_size=2)
ALL = Open(micro=True, activation_checkpointing=True, zero_stage=True)


def need(fit: Fit) -> int:
    """Of a made-up model: 10 GB of state, 2 GB for a row, an eighth of that with checkpointing."""
    rows = fit.micro * 2_000_000_000
    return 10_000_000_000 // (2 if fit.zero_stage == 3 else 1) + (
        rows // 8 if fit.activation_checkpointing else rows
    )


@pytest.mark.parametrize(
    ("may", "gigabytes", "micro", "checkpointing", "stage"),
    [
        pytest.param(ALL, 80, 4, False, 2, id="nothing needs to give way"),
        pytest.param(ALL, 19, 2, False, 2, id="some of it stays free"),
        pytest.param(ALL, 14.2, 1, False, 2, id="first the micro-batch"),
        pytest.param(ALL, 13, 4, True, 2, id="checkpointing brings the micro-batch back"),
        pytest.param(ALL, 9, 1, False, 3, id="then the stage"),
        pytest.param(ALL, 5.4, 1, True, 3, id="if all else fails, without that"),
        pytest.param(ALL, 3, 1, True, 3, id="nothing fits: what needs least"),
        pytest.param(replace(ALL, micro=False), 14, 4, True, 2, id="a given micro-batch stays"),
        pytest.param(replace(ALL, zero_stage=False), 9, 1, True, 2, id="a given stage stays"),
        pytest.param(
            Open(micro=True, activation_checkpointing=False, zero_stage=True),
            12.5, 2, False, 3, id="given checkpointing stays",
        ),
    ],
)  # fmt: skip
def test_the_cheapest_that_fits(
    may: Open, gigabytes: float, micro: int, checkpointing: bool, stage: int
) -> None:
    fit = choose(DEFAULT, may, need, int(gigabytes * 1e9)).fit
    assert (fit.micro, fit.activation_checkpointing, fit.zero_stage) == (
        micro, checkpointing, stage,
    )  # fmt: skip
    assert fit.micro * fit.accumulation == 8, "the global batch stays"


def test_reasons_are_told_in_words() -> None:
    tight = choose(DEFAULT, ALL, need, 9_000_000_000)
    assert tight.planned.reasons == {
        "microBatchSize": "with 4 a rank is predicted to need 13.0 GB and has 9.0 GB",
        "zeroStage": "with 2 a rank is predicted to need 10.2 GB and has 9.0 GB",
        "activationCheckpointing": "not needed: a rank is predicted to need 7.0 GB and has 9.0 GB, "
        "of which 15 % stay free",
    }
    spare = choose(DEFAULT, ALL, need, 19_000_000_000).planned.reasons or {}
    assert spare["microBatchSize"] == (
        "with 4 a rank is predicted to need 18.0 GB and has 19.0 GB, of which 15 % stay free"
    )
    hopeless = choose(DEFAULT, ALL, need, 3_000_000_000).planned.reasons or {}
    assert hopeless["zeroStage"].endswith("; nothing that was left open fits, and this needs least")


def test_only_what_was_open_is_kept() -> None:
    may = Open(micro=True, activation_checkpointing=False, zero_stage=False)
    planned = choose(DEFAULT, may, need, 14_000_000_000).planned
    assert planned.wire().keys() == {"microBatchSize", "reasons"}
    assert planned.reasons and planned.reasons.keys() == {"microBatchSize"}


FITS = st.builds(
    lambda micro, times, switch, stage, world: Fit(micro, times, switch, stage, world),
    st.integers(1, 32), st.integers(1, 16), st.booleans(), st.integers(0, 3), st.integers(1, 8),
)  # fmt: skip
OPEN = st.builds(Open, st.booleans(), st.booleans(), st.booleans())


@given(FITS, OPEN, st.integers(0, 40_000_000_000))
def test_a_choice_keeps_the_batch_fits_if_anything_does_and_is_found_again(
    default: Fit, may: Open, available: int
) -> None:
    choice = choose(default, may, need, available)
    assert choice.fit.micro * choice.fit.accumulation == default.micro * default.accumulation
    if any(need(fit) <= available for fit in candidates(default, may)):
        assert need(choice.fit) <= available
    if need(default) * 10 <= available * 9 and not (
        may.activation_checkpointing and default.activation_checkpointing
    ):
        assert choice.fit == default
    if not (may.activation_checkpointing and default.activation_checkpointing):
        assert kept(default, choice.planned) == choice.fit


def test_4_bit_weights_are_never_partitioned() -> None:
    quantized = replace(DEFAULT, quantized=True)
    assert {fit.zero_stage for fit in candidates(quantized, ALL)} == {2}
    assert choose(quantized, ALL, need, 3_000_000_000).fit.zero_stage == 2
    spec = make_spec(
        method={"lora": {"quantization": "NF4"}},
        workers={"ranksPerWorker": None, "gpusPerWorker": 4},
        deepspeed={"zeroStage": None},
    )
    plan = make_plan(spec)
    assert plan.fit.quantized and plan.fit.zero_stage == 2
    assert plan.run_config["method"]["lora"]["quantization"] == "NF4"
    assert "quantization" not in make_plan(make_spec()).run_config["method"]["lora"]


def test_another_number_of_ranks_keeps_what_was_chosen() -> None:
    planned = PlannedFit(micro_batch_size=2, zero_stage=3, activation_checkpointing="Enabled")
    three = kept(replace(DEFAULT, micro=3, accumulation=1, world_size=3), planned)
    assert (three.micro, three.accumulation, three.zero_stage) == (1, 3, 3)
    alone = kept(replace(DEFAULT, accumulation=4, zero_stage=0, world_size=1), planned)
    assert (alone.micro, alone.zero_stage, alone.activation_checkpointing) == (2, 0, True)


def planned_status(**resolved: Any) -> FineTuneJobStatus:
    planned = PlannedFit(
        micro_batch_size=2, activation_checkpointing="Enabled", reasons={"microBatchSize": "told"}
    )
    told = Resolved(planned=planned, global_batch_size=16)
    return FineTuneJobStatus(resolved=told.model_copy(update=resolved))


def test_later_plans_go_on_from_the_choice_and_its_reasons() -> None:
    spec = make_spec(
        training={"microBatchSize": None, "activationCheckpointing": "Auto"},
        data={"sequenceLength": 256},
    )
    first = make_plan(spec)
    assert (first.fit.micro, first.resolved.activation_checkpointing) == (8, "Disabled")
    later = make_plan(spec, planned_status())
    assert (later.fit.micro, later.fit.activation_checkpointing) == (2, True)
    assert later.run_config["training"]["activationCheckpointing"] is True
    assert later.resolved.reasons and later.resolved.reasons["microBatchSize"] == "told"
    once = planned_status(adaptations=(Adaptation(change="smaller"),))
    assert make_plan(spec, once).fit.micro == 1, "the ladder goes on from the choice"


def test_auto_means_disabled_as_long_as_nothing_is_known() -> None:
    plan = make_plan(make_spec(training={"activationCheckpointing": "Auto"}))
    assert plan.resolved.reasons and plan.resolved.activation_checkpointing == "Disabled"
    assert plan.resolved.reasons["activationCheckpointing"].startswith("Auto: it is not known")
