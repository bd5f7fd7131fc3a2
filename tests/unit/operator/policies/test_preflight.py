"""PreflightPassed: what a rank will need, whether it fits, and what follows where it does not."""

from __future__ import annotations

from typing import Any

import pytest
from builders import (
    ended_pod,
    last_words,
    main_condition,
    make_child_job,
    make_facts,
    make_plan,
    make_spec,
    status_in,
)
from hypothesis import example, given
from hypothesis import strategies as st

from finetune_operator.api.schema import quantity_value
from finetune_operator.api.types import FineTuneJobStatus, MemoryStatus, StageName
from finetune_operator.status import decide

SHAPE = {
    "trainable": 4_884_480,
    "largest": 24_576,
    "layers": 30,
    "hidden": 576,
    "attention": 576,
    "intermediate": 1536,
    "vocabulary": 49_152,
    "gated": True,
    "rmsNorm": True,
    "stepwiseGelu": False,
    "adapters": 210,
    "adapterInputs": 149_760,
    "adapterOutputs": 155_520,
}
MODEL = {"architecture": "LlamaForCausalLM", "parameters": 134_515_008, "shape": SHAPE}
DATA = {"longestRow": 1000, "mostSupervised": 500}


def spec_with(memory: str | None = None, policy: str = "Warn") -> dict[str, Any]:
    workers: dict[str, Any] = {"onMemoryShortage": policy}
    if memory:
        workers["resources"] = {"limits": {"memory": memory}}
    return make_spec(workers=workers)


def prepared(spec: dict[str, Any], model: dict[str, Any] | None = None) -> dict[str, Any]:
    """The status after prepare ended with these words."""
    words = last_words(StageName.PREPARE, model=model or MODEL, data=DATA, steps=9)
    facts = make_facts(
        status_in(StageName.PREPARE),
        jobs=(make_child_job(StageName.PREPARE, complete=True),),
        pods=(ended_pod(0, StageName.PREPARE, code=0, words=words),),
        spec=spec,
    )
    return dict(decide(facts).status)


def told(status: dict[str, Any]) -> tuple[str, str, str]:
    found = main_condition(status, "PreflightPassed")
    return found["status"], found["reason"], found["message"]


SPECS = [
    spec_with(),
    make_spec(
        workers={"ranksPerWorker": None, "gpusPerWorker": 2, "memoryPerGpu": "80Gi"},
        method={"lora": {"rank": 16, "quantization": "NF4"}},
    ),
    make_spec(
        workers={"ranksPerWorker": None, "gpusPerWorker": 2, "memoryPerGpu": "80Gi"},
        deepspeed={"zeroStage": 3, "offloadOptimizer": "CPU", "offloadParameters": "CPU"},
    ),
]
NUMBERS = st.one_of(st.integers(0, 64), st.integers(0, 2**40), st.just(2**63 - 1))
COUNTED = [*(name for name in SHAPE if type(SHAPE[name]) is int), "keyValue", "quantized",
           "quantizedBytes", "largestQuantized"]  # fmt: skip


@given(st.sampled_from(SPECS), NUMBERS, st.fixed_dictionaries(dict.fromkeys(COUNTED, NUMBERS)))
@example(SPECS[1], 7, dict.fromkeys(COUNTED, 8) | {"quantizedBytes": 1})
def test_whatever_is_told_of_a_model_the_status_has_room_for_what_follows(
    spec: dict[str, Any], parameters: int, shape: dict[str, int]
) -> None:
    """Somebody may have written it by hand: a decision that fails would be tried for ever."""
    model = MODEL | {"parameters": parameters, "shape": SHAPE | shape}
    told = FineTuneJobStatus.model_validate({"model": model, "data": DATA})
    memory = make_plan(spec, told).resolved.memory or MemoryStatus()
    sizes = [memory.predicted_bytes, memory.host_bytes, *(memory.parts or {}).values()]
    assert all(0 <= size < 2**63 for size in sizes if size is not None)


def test_before_prepare_nobody_knows() -> None:
    assert told(dict(decide(make_facts(spec=spec_with("64Gi"))).status))[:2] == (
        "Unknown",
        "Pending",
    )


def test_the_end_of_prepare_tells_what_a_rank_will_need() -> None:
    status = prepared(spec_with())
    memory = status["resolved"]["memory"]
    assert status["resolved"]["steps"] == 9
    assert memory["predictedBytes"] == sum(memory["parts"].values())
    assert memory["parts"]["parameters"] == 4 * 134_515_008
    assert memory["parts"]["logits"] == 12 * 2 * 500 * 49_152
    value, reason, message = told(status)
    assert (value, reason) == ("Unknown", "MemoryUnknown")
    assert message == (
        "a rank is predicted to need 4.6 GB at its worst moment (activations 2.9 GB, logits "
        "0.6 GB, runtime 0.6 GB); how much it has is not known"
    )


def test_dora_needs_what_its_outputs_keep() -> None:
    """Two numbers of four bytes for each output of an adapted layer and each of 2000 tokens."""
    plain, decomposed = (
        prepared(make_spec(method={"lora": {"dora": switch}}))["resolved"]["memory"]["parts"]
        for switch in ("Disabled", "Enabled")
    )
    assert decomposed["activations"] - plain["activations"] == 2 * 4 * 155_520 * 2000


def test_a_limit_that_is_large_enough_passes() -> None:
    value, reason, message = told(prepared(spec_with("8Gi")))
    assert (value, reason) == ("True", "MemoryFits")
    assert message.endswith("and has 8.6 GB")


@pytest.mark.parametrize(
    ("limit", "remedy"),
    [
        pytest.param("4Gi", "microBatchSize 1 and accumulation 8", id="smaller micro-batch first"),
        pytest.param(
            "2500M",
            "microBatchSize 1 and accumulation 8, activationCheckpointing Enabled",
            id="then checkpointing",
        ),
    ],
)
def test_what_does_not_fit_names_the_nearest_that_does(limit: str, remedy: str) -> None:
    status = prepared(spec_with(limit))
    value, reason, message = told(status)
    assert (value, reason) == ("False", "MemoryShort")
    assert message.endswith(f"it would fit with {remedy}")
    assert status["resolved"]["memory"]["fitsWith"] == remedy


def test_nothing_smaller_is_said_too() -> None:
    _, _, message = told(prepared(spec_with("1G")))
    assert message.endswith("no smaller micro-batch, checkpointing or ZeRO stage makes it fit")


def test_ranks_of_a_pod_share_its_limit() -> None:
    spec = make_spec(
        workers={
            "count": 1,
            "ranksPerWorker": 2,
            "resources": {"limits": {"memory": "8Gi"}},
        }
    )
    assert prepared(spec)["resolved"]["memory"]["availableBytes"] == 4 * 2**30


def test_a_gpu_has_what_the_spec_says() -> None:
    spec = make_spec(workers={"ranksPerWorker": None, "gpusPerWorker": 1, "memoryPerGpu": "80Gi"})
    assert prepared(spec)["resolved"]["memory"]["availableBytes"] == 80 * 2**30
    assert told(prepared(spec))[0] == "True"


GPU_OF = {"count": 1, "ranksPerWorker": None, "gpusPerWorker": 1}


def all_weights(memory: str, host: str | None, **deepspeed: Any) -> dict[str, Any]:
    """Full fine-tuning on one GPU, the smallest that it can be without offload."""
    limits = {"resources": {"limits": {"memory": host}}} if host else {}
    return make_spec(
        method={"lora": None, "full": {}},
        training={"microBatchSize": 1, "activationCheckpointing": "Enabled"},
        output={"formats": ["Merged"]},
        deepspeed=deepspeed,
        workers={**GPU_OF, "memoryPerGpu": memory, **limits},
    )


ALL_WEIGHTS = {**MODEL, "shape": {**SHAPE, "trainable": 134_515_008, "largest": 28_311_552}}


@pytest.mark.parametrize("host", [None, "64Gi"])
def test_the_nearest_that_fits_a_gpu_may_be_offload(host: str | None) -> None:
    status = prepared(all_weights("4Gi", host), ALL_WEIGHTS)
    assert told(status)[:2] == ("False", "MemoryShort")
    remedy = "zeroStage 2, offloadOptimizer CPU"
    assert status["resolved"]["memory"]["fitsWith"] == remedy
    followed = prepared(all_weights("4Gi", host, offloadOptimizer="CPU"), ALL_WEIGHTS)
    assert told(followed)[:2] == ("True", "MemoryFits")
    assert followed["resolved"]["zeroStage"] == 2
    assert "optimizer" not in followed["resolved"]["memory"]["parts"]


def test_offload_is_no_remedy_where_the_host_is_full() -> None:
    status = prepared(all_weights("4Gi", "2Gi"), ALL_WEIGHTS)
    value, reason, message = told(status)
    assert (value, reason) == ("False", "MemoryShort")
    assert "fitsWith" not in status["resolved"]["memory"]
    assert message.endswith("or offload makes it fit, as far as the host has memory")


def test_a_host_that_does_not_hold_what_is_offloaded_does_not_pass() -> None:
    status = prepared(all_weights("80Gi", "2Gi", offloadOptimizer="CPU"), ALL_WEIGHTS)
    value, reason, message = told(status)
    memory = status["resolved"]["memory"]
    assert (value, reason) == ("False", "MemoryShort")
    assert memory["hostBytes"] > memory["hostAvailableBytes"] == 2 * 2**30
    assert message.startswith("a rank is predicted to need 4.") and "of host memory" in message
    assert "raise spec.workers.resources.limits.memory" in message


def test_what_is_left_open_is_chosen_so_that_it_fits() -> None:
    """Two rows of 1000 tokens need 4.7 GB: the cheapest way is one at a time."""
    changes = {"microBatchSize": None, "activationCheckpointing": "Auto"}
    spec = make_spec(training=changes, workers={"resources": {"limits": {"memory": "4Gi"}}})
    resolved = prepared(spec)["resolved"]
    planned = resolved["planned"]
    assert (planned["microBatchSize"], planned["zeroStage"]) == (1, 2)
    assert planned["activationCheckpointing"] == "Disabled"
    assert planned["reasons"].items() <= resolved["reasons"].items()
    assert (resolved["microBatchSize"], resolved["accumulation"]) == (1, 8)
    assert told(prepared(spec))[0] == "True"
    assert resolved["reasons"]["zeroStage"].startswith("optimizer state and gradients")
    again = decide(make_facts(FineTuneJobStatus.model_validate(prepared(spec)), spec=spec))
    assert again.status["resolved"] == resolved, "the next plan says the same"


def test_nothing_is_chosen_where_memory_is_not_known() -> None:
    resolved = prepared(make_spec(training={"microBatchSize": None}))["resolved"]
    assert "planned" not in resolved


@pytest.mark.parametrize(("policy", "phase"), [("Warn", "Starting"), ("Fail", "Failed")])
def test_fail_ends_the_job_before_a_training_pod(policy: str, phase: str) -> None:
    spec = spec_with("1G", policy)
    stored = prepared(spec)
    decision = decide(make_facts(FineTuneJobStatus.model_validate(stored), spec=spec))
    assert decision.status["phase"] == phase
    assert bool(decision.actions) == (policy == "Warn")
    if policy == "Fail":
        failed = main_condition(decision.status, "Failed")
        assert failed["reason"] == "MemoryShort" and "predicted to need" in failed["message"]
        assert decision.status["failure"]["class"] == "ConfigInvalid"


def test_fail_lets_a_job_that_fits_begin() -> None:
    spec = spec_with("64Gi", "Fail")
    stored = FineTuneJobStatus.model_validate(prepared(spec))
    assert decide(make_facts(stored, spec=spec)).actions


@pytest.mark.parametrize("shape", [None, {"layers": 30}, {"layers": "many"}, {"layers": -1}])
def test_a_shape_that_makes_no_sense_costs_the_prediction_alone(shape: Any) -> None:
    status = prepared(spec_with("1G", "Fail"), {**MODEL, "shape": shape})
    assert status["model"]["parameters"] == 134_515_008
    assert told(status)[:2] == ("Unknown", "Pending")


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        (2, 2),
        ("1500m", 2),
        ("2k", 2000),
        ("1.5Gi", 1_610_612_736),
        ("80Gi", 80 * 2**30),
        ("1P", 10**15),
    ],
)
def test_quantities_are_read(quantity: int | str, value: int) -> None:
    assert quantity_value(quantity) == value
