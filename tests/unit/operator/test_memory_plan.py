"""Bytes of a rank: against values reckoned by hand, against torch, and as a function."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.host_memory import host_bytes
from finetune_operator.memory_ladder import Fit
from finetune_operator.memory_plan import (
    BUCKET_ELEMENTS,
    CHUNK_BYTES,
    RUNTIME_BYTES,
    Memory,
    Setup,
    Shape,
    activations,
    layer_activations,
    moments,
    optimizer_state,
    predict,
    weights,
)
from finetune_trainer.fast import head

SMOL = Shape(
    parameters=134_515_008,
    trainable=134_515_008,
    largest=49_152 * 576,
    layers=30,
    hidden=576,
    attention=576,
    intermediate=1536,
    vocabulary=49_152,
    gated=True,
    rms_norm=True,
)
"""SmolLM2-135M: a Llama with a tied head."""
ADAPTED = replace(
    SMOL, trainable=4_884_480, largest=16 * 1536, adapters=210, adapter_inputs=30 * 4992
)
"""The same with LoRA of rank 16 on all linear layers."""
GPT2 = Shape(
    parameters=124_439_808,
    trainable=124_439_808,
    largest=50_257 * 768,
    layers=12,
    hidden=768,
    attention=768,
    intermediate=3072,
    vocabulary=50_257,
    gated=False,
    rms_norm=False,
    stepwise_gelu=True,
)
CPU = Setup("FP32", "CPU", row_tokens=256, row_targets=256)
GPU = Setup("BF16", "GPU", row_tokens=256, row_targets=256)
LORA_CPU = replace(CPU, lora_rank=16)
ONE = Fit(micro=1, accumulation=1, activation_checkpointing=False, zero_stage=0, world_size=1)
TWO = replace(ONE, world_size=2, zero_stage=2)


@pytest.mark.parametrize(
    ("shape", "setup", "fit", "parameters", "optimizer"),
    [
        pytest.param(SMOL, CPU, ONE, 538_060_032, 1_076_120_064, id="no master copy in FP32"),
        pytest.param(SMOL, CPU, TWO, 538_060_032, 807_090_048, id="stage 2 clones and halves"),
        pytest.param(
            SMOL, CPU, replace(TWO, zero_stage=3), 269_030_016, 538_060_032, id="stage 3 halves"
        ),
        pytest.param(
            SMOL,
            replace(CPU, optimizer="SGD"),
            TWO,
            538_060_032,
            269_030_016,
            id="SGD has no state",
        ),
        pytest.param(SMOL, GPU, ONE, 269_030_016, 1_614_180_096, id="stage 0 runs as 1 in BF16"),
        pytest.param(
            ADAPTED, LORA_CPU, TWO, 538_060_032, 29_306_880, id="adapters are all that has state"
        ),
        pytest.param(GPT2, CPU, TWO, 497_759_232, 746_638_848, id="GPT-2"),
        pytest.param(
            GPT2, GPU, replace(TWO, zero_stage=3), 124_439_808, 746_638_848, id="GPT-2 in BF16"
        ),
    ],
)
def test_the_state_is_exact(
    shape: Shape, setup: Setup, fit: Fit, parameters: int, optimizer: int
) -> None:
    assert weights(shape, setup, fit)[0] == parameters
    assert optimizer_state(shape, setup, fit) == optimizer


@pytest.mark.parametrize(
    ("shape", "setup", "fit", "size"),
    [
        # 4 × 256 × 30 × (10 × 576 + 4 × 1536 + 256) + 4 × 576 × (3 + 1) × 256
        pytest.param(SMOL, CPU, ONE, 375_914_496, id="Llama"),
        # 4 × 256 × 30 × 576 + the same end
        pytest.param(
            SMOL, CPU, replace(ONE, activation_checkpointing=True), 20_054_016, id="checkpointing"
        ),
        pytest.param(SMOL, CPU, replace(ONE, micro=2), 751_828_992, id="twice the rows"),
        # 4 × 256 × 12 × (8 × 768 + 5 × 3072 + 256) + 4 × 768 × (2 + 1) × 256
        pytest.param(GPT2, CPU, ONE, 269_746_176, id="GPT-2"),
        # 2 × 256 × 30 × (4 × 576 + 4 × 576 + 4 × 1536 + 2 × 576 + 256 + 2 × 576) + 2 × 576 × 1024
        pytest.param(SMOL, GPU, ONE, 205_651_968, id="RMSNorm keeps FP32 in BF16"),
        # 4 × 256 × (30 × (8 × 576 + 4 × 1536 + 256) + 16 × 210 + 3 × 576)
        pytest.param(ADAPTED, LORA_CPU, ONE, 343_375_872, id="frozen norms keep less"),
    ],
)
def test_activations_by_hand(shape: Shape, setup: Setup, fit: Fit, size: int) -> None:
    assert activations(shape, setup, fit) == size


def test_the_worst_moment_by_hand() -> None:
    """GPT-2 on one CPU: the weights, two moments, a short row and the logits of its targets."""
    few = replace(CPU, row_targets=100)
    worst = predict(GPT2, few, ONE)
    assert worst == moments(GPT2, few, ONE)["end of backward"]
    assert worst.total == sum(
        (
            16 * 124_439_808 + RUNTIME_BYTES["CPU"],
            4 * 256 * (8 * 768 + 5 * 3072 + 256),  # a layer's activations
            4 * 256 * (2 * 3072 + 2 * 768),  # gradients that flow through it
            4 * 50_257 * 768,  # the gradient of the largest tensor, before it is added
        )
    )


def test_logits_decide_with_adapters() -> None:
    worst = predict(ADAPTED, LORA_CPU, ONE)
    assert worst == moments(ADAPTED, LORA_CPU, ONE)["loss"]
    assert worst.logits == 12 * 256 * 49_152


CHUNKED = {"chunked_loss": True, "by_sample": True}


@pytest.mark.parametrize(
    ("setup", "stage", "chunked"),
    [
        (LORA_CPU, 2, True),
        (LORA_CPU, 3, False),
        (CPU, 2, True),
        (GPU, 2, True),
        (GPU, 3, False),
        (replace(GPU, lora_rank=16), 2, True),
    ],
)
def test_logits_in_chunks(setup: Setup, stage: int, chunked: bool) -> None:
    """In ZeRO 3 not: then all are there at once. On a GPU a chunk's gradient takes its place."""
    shape, fit = replace(ADAPTED, **CHUNKED), replace(TWO, zero_stage=stage)
    c = setup.number_bytes
    of_logit = c if setup.device == "GPU" else {4: 8, 2: 10}[c]
    now = moments(shape, setup, fit)
    if chunked:
        assert now["head"].logits == c * 256 * 576
        most = min(256 * 49_152, CHUNK_BYTES[setup.device] // c)
        assert now["loss"].logits == of_logit * most + c * 256 * 576
    else:
        assert now["loss"].logits == 12 * 256 * 49_152
    few = moments(shape, replace(setup, row_targets=1), fit)["loss"].logits
    assert few == (of_logit * 49_152 + c * 576 if chunked else 12 * 49_152)


def test_the_size_of_a_chunk_is_the_trainer_s() -> None:
    assert {"CPU": head.CHUNK_BYTES["cpu"], "GPU": head.CHUNK_BYTES["cuda"]} == CHUNK_BYTES


def test_only_supervised_tokens_have_logits() -> None:
    few = predict(ADAPTED, replace(LORA_CPU, row_targets=10), ONE)
    assert few.logits <= 12 * 10 * 49_152


def test_a_checkpoint_copy_lies_in_the_memory_of_a_cpu_rank_alone() -> None:
    copy = replace(CPU, checkpoint_copy=True)
    assert predict(SMOL, copy, TWO).checkpoint_copy == 6 * 134_515_008
    assert predict(SMOL, replace(GPU, checkpoint_copy=True), TWO).checkpoint_copy == 0


def test_weights_in_4_bits_by_hand() -> None:
    """SmolLM2: 210 linear layers of 106,168,320 numbers; the rest, its embeddings, in BF16."""
    packed = replace(
        ADAPTED, quantized=106_168_320, quantized_bytes=54_998_520, largest_quantized=576 * 1536
    )
    setup = replace(GPU, lora_rank=16)
    assert weights(packed, setup, TWO)[0] == 2 * 28_346_688 + 54_998_520
    plain, few = (moments(shape, setup, TWO) for shape in (ADAPTED, packed))
    unpacked = 2 * 576 * 1536 + 4 * 576 * 1536 // 64
    for moment in ("end of forward", "layers", "end of backward"):
        assert few[moment].buffers == plain[moment].buffers + unpacked
    for moment in few:
        assert few[moment].activations == plain[moment].activations
        assert few[moment].optimizer == plain[moment].optimizer


def test_dora_needs_room_for_whole_weights_when_forward_ends() -> None:
    dora = replace(LORA_CPU, dora=True, row_targets=1)
    plain = moments(ADAPTED, replace(dora, dora=False), ONE)["end of forward"]
    norms = moments(ADAPTED, dora, ONE)["end of forward"].buffers - plain.buffers
    assert norms == 4 * (3 * 576 * 1536 + 1536 * 1536)


SHAPES = st.sampled_from([SMOL, ADAPTED, GPT2])
SETUPS = st.builds(
    Setup,
    precision=st.sampled_from(["BF16", "FP16", "FP32"]),
    device=st.sampled_from(["CPU", "GPU"]),
    row_tokens=st.integers(1, 8192),
    row_targets=st.integers(0, 8192),
    optimizer=st.sampled_from(["AdamW", "SGD"]),
    lora_rank=st.sampled_from([0, 16]),
    lora_dropout=st.booleans(),
    dora=st.booleans(),
    packed=st.booleans(),
    checkpoint_copy=st.booleans(),
)
FITS = st.builds(
    Fit,
    micro=st.integers(1, 64),
    accumulation=st.integers(1, 64),
    activation_checkpointing=st.booleans(),
    zero_stage=st.integers(0, 3),
    world_size=st.integers(1, 512),
)


@given(SHAPES, SETUPS, FITS)
def test_no_part_is_negative_and_more_work_never_needs_less(
    shape: Shape, setup: Setup, fit: Fit
) -> None:
    now = predict(shape, setup, fit)
    assert min(vars(now).values()) >= 0
    larger = predict(shape, setup, replace(fit, micro=fit.micro + 1))
    longer = predict(shape, replace(setup, row_tokens=setup.row_tokens + 1), fit)
    assert now.total <= larger.total
    assert now.total <= longer.total
    assert layer_activations(shape, setup, fit) <= activations(
        shape, setup, replace(fit, activation_checkpointing=False)
    )


@given(SHAPES, SETUPS, FITS.filter(lambda fit: fit.world_size > 1))
def test_a_higher_stage_keeps_no_more(shape: Shape, setup: Setup, fit: Fit) -> None:
    """Weights and optimizer, from stage 1 on; in FP32 stage 1 has a master copy and 0 has none."""
    kept = [_certain(shape, setup, replace(fit, zero_stage=stage)) for stage in (1, 2, 3)]
    assert kept == sorted(kept, reverse=True)
    if setup.optimizer == "AdamW":
        assert _certain(shape, setup, replace(fit, zero_stage=0)) >= kept[0]


def _certain(shape: Shape, setup: Setup, fit: Fit) -> int:
    return weights(shape, setup, fit)[0] + optimizer_state(shape, setup, fit)


def test_a_memory_is_the_sum_of_its_parts() -> None:
    assert Memory(1, 2, 3, 4, 5, 6, 7, 8).total == 36


@pytest.mark.parametrize(
    ("setup", "ranks", "copies"),
    [
        pytest.param(CPU, 2, 2, id="gloo reduces a copy of the sorted copy"),
        pytest.param(GPU, 2, 1, id="NCCL reduces the sorted copy"),
        pytest.param(CPU, 1, 0, id="nobody to share with"),
    ],
)
def test_stage_3_copies_a_bucket_to_scatter_it(setup: Setup, ranks: int, copies: int) -> None:
    fit = replace(ONE, world_size=ranks, zero_stage=3)
    other = replace(fit, zero_stage=2)
    bucket = 4 * BUCKET_ELEMENTS

    end, without = (moments(SMOL, setup, each)["end of backward"] for each in (fit, other))

    assert end.buffers - without.buffers == copies * bucket


OFFLOADED = replace(TWO, on_gpu=True, offload_optimizer=True)


def test_the_host_holds_what_is_offloaded_by_hand() -> None:
    """GPT-2 in BF16 on two ranks. At ZeRO 2: two moments; master weights and gradients, pinned,
    which rounds 248,879,616 bytes up to 2²⁸; new weights to 2²⁷. In FP32 also sums, with edges."""
    at_2 = host_bytes(GPT2, GPU, OFFLOADED) - RUNTIME_BYTES["CPU"]
    assert at_2 == 4 * 124_439_808 + 2 * 2**28 + 2**27
    exact = host_bytes(GPT2, replace(GPU, precision="FP32"), OFFLOADED) - RUNTIME_BYTES["CPU"]
    assert exact == 4 * 124_439_808 + 2 * 2**28 + 2**28 + 2**30
    at_3 = host_bytes(GPT2, GPU, replace(OFFLOADED, zero_stage=3)) - RUNTIME_BYTES["CPU"]
    assert at_3 == 6 * 124_439_808 + 2 * 2**28
    whole = replace(OFFLOADED, zero_stage=3, offload_parameters=True)
    assert (
        host_bytes(GPT2, GPU, whole)
        - host_bytes(GPT2, GPU, replace(whole, offload_parameters=False))
        == 2**27
    )
    assert host_bytes(GPT2, GPU, TWO) == RUNTIME_BYTES["CPU"]
    saves = replace(GPU, checkpoint_copy=True)
    assert host_bytes(GPT2, saves, TWO) == RUNTIME_BYTES["CPU"] + 6 * 124_439_808


def test_a_gpu_is_relieved_of_what_is_offloaded() -> None:
    assert optimizer_state(GPT2, GPU, OFFLOADED) == 0
    parted = replace(OFFLOADED, zero_stage=3, offload_parameters=True)
    assert weights(GPT2, GPU, parted) == (0, 2 * 124_439_808)


@given(
    st.sampled_from([SMOL, GPT2, ADAPTED]),
    st.sampled_from([GPU, replace(GPU, precision="FP32")]),
    st.integers(1, 8),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_offload_never_takes_more_of_a_gpu(
    shape: Shape, setup: Setup, ranks: int, stage: int, times: int
) -> None:
    fit = Fit(1, times, True, stage, world_size=ranks, on_gpu=True)
    offloaded = replace(fit, offload_optimizer=True)
    assert predict(shape, setup, offloaded).total <= predict(shape, setup, fit).total
