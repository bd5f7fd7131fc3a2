"""How much memory a rank needs at its worst moment: pure functions of the model and the settings.

Symbols, as in the formulas below: P all parameters, T trained ones, w ranks, c bytes of a number
in forward and backward (4 in FP32, else 2), t tokens of a micro-batch, N of these that carry a
loss, L layers, h hidden size, a heads × head size, f width of the MLP, V vocabulary.

Sources. What ZeRO keeps: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion
Parameter Models" (arXiv:1910.02054), section 3, and DeepSpeed 0.19 (``stage_1_and_2.py``,
``stage3.py``) where it differs. What backward needs of forward: counted in the way of Korthikanti
et al., "Reducing Activation Recomputation" (arXiv:2205.05198), section 4.1, for attention without
stored scores; the tests compare the counts with the tensors that torch saves. What was measured
or, on GPUs, guessed, are the constants of `RUNTIME_BYTES` (benchmarks/results.md, "Memory").

Not in the plan: dropout inside the model (``training.dropout``), which keeps masks and on CPUs the
scores of attention; answers to held-out prompts; fragmentation; the copy of each weight that DoRA
keeps in GPT-2's own kind of linear layer (``Conv1D``).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from .memory_ladder import Fit

BUCKET_ELEMENTS = 50_000_000
"""Of a communication bucket, as the trainer sets it (``zero_config.BUCKET_ELEMENTS``)."""
LIVE_ELEMENTS = 1_000_000_000
"""ZeRO-3 keeps so many gathered parameters until they are used again (DeepSpeed's default of
``stage3_max_live_parameters`` and ``stage3_max_reuse_distance``)."""
RUNTIME_BYTES = {"CPU": 550_000_000, "GPU": 2_050_000_000}
"""Of a rank before it has a model, as measured. CPU: the interpreter with torch, DeepSpeed,
transformers and PEFT. GPU: context, libraries and workspaces on an H200, without NCCL's peers."""
LOSS_BYTES = 12
"""Of a logit when backward begins: log-probability, its gradient, and that of the logit, in fp32;
the logit itself is freed by then."""
CHUNK_BYTES = {"CPU": 1 << 25, "GPU": 1 << 30}
"""Logits at a time where the trainer makes the loss in chunks (``fast/head.py``)."""


@dataclass(frozen=True)
class Shape:
    """What a plan must know of a model; prepare reads it from the model's configuration."""

    parameters: int
    trainable: int
    """Parameters that the job's method trains."""
    largest: int
    """Elements of the largest trained tensor."""
    layers: int
    hidden: int
    attention: int
    """Heads × head size."""
    intermediate: int
    vocabulary: int
    gated: bool
    """The MLP multiplies two projections, as SwiGLU does."""
    rms_norm: bool
    """Norms are RMSNorm, computed in fp32 from single operations; else LayerNorm."""
    stepwise_gelu: bool = False
    """The MLP's activation is computed in single steps, each of which keeps its result."""
    chunked_loss: bool = False
    """The loss can be made in chunks of logits, gradients included."""
    by_sample: bool = False
    """Attention has no mask. Such architectures have ordinary linear layers, too, and adapters on
    these keep less."""
    fused: bool = False
    """On GPUs norms and gates are one kernel each, which keeps its inputs alone."""
    key_value: int = 0
    """Heads of keys × head size; 0: not told, as many as heads of queries."""
    adapters: int = 0
    """Linear layers with an adapter."""
    adapter_inputs: int = 0
    """Input features of all of them together."""
    adapter_outputs: int = 0
    """Output features of all of them together."""
    quantized: int = 0
    """Parameters that are kept in 4 bits."""
    quantized_bytes: int = 0
    """Of these with their scales, as bitsandbytes stores them."""
    largest_quantized: int = 0
    """Elements of the largest of their tensors."""


@dataclass(frozen=True)
class Setup:
    """How it is trained, besides the fit."""

    precision: Literal["BF16", "FP16", "FP32"]
    device: Literal["CPU", "GPU"]
    row_tokens: int
    """Of the longest packed row."""
    row_targets: int
    """Tokens that carry a loss, in the row that has most of them."""
    optimizer: Literal["AdamW", "SGD"] = "AdamW"
    lora_rank: int = 0
    """0: full fine-tuning."""
    lora_dropout: bool = False
    dora: bool = False
    """Adapters that decompose the weights."""
    packed: bool = True
    """Rows hold several samples, so attention needs a mask."""
    checkpoint_copy: bool = False
    """A copy of the training state waits in host memory to be written."""

    @property
    def number_bytes(self) -> int:
        """Symbol c."""
        return 4 if self.precision == "FP32" else 2


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at one moment: of its GPU, or of its process on CPU."""

    parameters: int = 0
    """Weights that compute."""
    gradients: int = 0
    optimizer: int = 0
    """Master weights and the optimizer's state."""
    activations: int = 0
    """What backward needs of forward."""
    logits: int = 0
    """Of supervised tokens, with their probabilities and gradients."""
    buffers: int = 0
    """Communication and temporaries."""
    checkpoint_copy: int = 0
    runtime: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, part.name) for part in fields(self))


def predict(shape: Shape, setup: Setup, fit: Fit) -> Memory:
    """The moment of a step that needs most. Never negative; more tokens never need less."""
    return max(moments(shape, setup, fit).values(), key=lambda memory: memory.total)


def moments(shape: Shape, setup: Setup, fit: Fit) -> dict[str, Memory]:
    """The moments that can be the worst: end of forward, loss, head and layers of backward, its
    end, step, save.

    The optimizer's state is counted in all of them: it is there from the first step on.
    """
    c, stage = setup.number_bytes, zero_stage(fit, setup)
    tokens = fit.micro * setup.row_tokens
    targets = fit.micro * min(setup.row_targets, setup.row_tokens)
    parameters, live = weights(shape, setup, fit)
    held, whole, at_step, temporaries = _gradients(shape, setup, fit)
    bucket = 4 * min(shape.trainable, BUCKET_ELEMENTS)
    kept = activations(shape, setup, fit)
    layer = layer_activations(shape, setup, fit)
    trains_head = c * shape.vocabulary * shape.hidden if not setup.lora_rank else 0
    # Gradients that flow through one layer: two of the width of the MLP, two of the hidden one.
    flow = c * tokens * (2 * shape.intermediate + 2 * shape.hidden)
    filling, norms = bucket if stage > 0 else 0, _decomposition(shape, setup)
    unpacked = _unpacked(shape, setup)
    always = {
        "optimizer": optimizer_state(shape, setup, fit),
        "checkpoint_copy": _checkpoint_copy(shape, setup, fit),
        "runtime": RUNTIME_BYTES[setup.device],
    }
    logits, summed = targets * shape.vocabulary, 0
    # Made with the loss, and kept until backward: the gradient of what the head was given.
    loss, of_head = LOSS_BYTES * logits, (4 + c) * logits
    if chunked := _chunked_loss(shape, setup, fit):
        of_head = c * targets * shape.hidden
        at_once = min(c * logits, CHUNK_BYTES[setup.device]) // c
        # On GPUs the gradient takes its place; else of 16 bits there is a copy in fp32 besides.
        of_logit = c if setup.device == "GPU" else 4 + c if c == 4 else 4 + c + 4
        loss = of_logit * at_once + of_head
        summed = 4 * trains_head // c  # the gradient of the head, in fp32 over all chunks
        trains_head = summed if c == 4 else summed + trains_head
    again = layer if fit.activation_checkpointing else 0
    return {
        "loss": Memory(
            parameters=parameters + live,
            gradients=held,
            activations=kept,
            logits=loss,
            buffers=filling + (summed if chunked else 0),
            **always,
        ),
        "end of forward": Memory(
            parameters=parameters + live,
            gradients=held,
            activations=kept,
            buffers=filling + norms + unpacked,
            **always,
        ),
        "head": Memory(
            parameters=parameters + live,
            gradients=held,
            activations=kept,
            logits=of_head,
            buffers=filling + trains_head,
            **always,
        ),
        "layers": Memory(
            parameters=parameters + live,
            gradients=held,
            activations=kept + again,
            buffers=filling + flow + unpacked + (norms if again else 0),
            **always,
        ),
        "end of backward": Memory(
            parameters=parameters + live,
            gradients=whole,
            activations=layer,
            buffers=(bucket if stage > 0 or fit.world_size > 1 else 0)
            + (_scattered(bucket, setup, fit) if stage == 3 else 0)
            + flow
            + unpacked
            + c * shape.largest,
            **always,
        ),
        "step": Memory(
            parameters=parameters,
            gradients=at_step,
            buffers=temporaries + (bucket if stage == 3 else 0),
            **always,
        ),
        "save": Memory(
            parameters=parameters,
            buffers=c * shape.trainable if setup.device == "CPU" else 0,
            **always,
        ),
    }


def zero_stage(fit: Fit, setup: Setup) -> int:
    """Stage that really runs: 0 in 16 bits runs as 1 (``zero_config.effective_stage``)."""
    return 1 if fit.zero_stage == 0 and setup.precision != "FP32" else fit.zero_stage


def _chunked_loss(shape: Shape, setup: Setup, fit: Fit) -> bool:
    """Not where ZeRO 3 divides the head."""
    return shape.chunked_loss and zero_stage(fit, setup) < 3


def weights(shape: Shape, setup: Setup, fit: Fit) -> tuple[int, int]:
    """cP, but for those in 4 bits; in ZeRO-3 cP/w, offloaded nothing, and besides what is gathered
    while forward and backward run."""
    c, everything = setup.number_bytes, shape.parameters
    if zero_stage(fit, setup) < 3:
        return c * (everything - shape.quantized) + shape.quantized_bytes, 0
    live = c * min(everything, LIVE_ELEMENTS)
    return 0 if fit.offload_parameters else share(c * everything, fit), live


def optimizer_state(shape: Shape, setup: Setup, fit: Fit) -> int:
    """Master weights 4T/w and, with AdamW, two moments of 4T/w each.

    There are no master weights in FP32 at ZeRO 0 and 3, where the weights serve as such; at ZeRO 1
    and 2 DeepSpeed clones them in FP32, too. ZeRO 0 divides nothing. Offloaded: nothing.
    """
    return 0 if fit.offload_optimizer else optimizer_bytes(shape, setup, fit)


def optimizer_bytes(shape: Shape, setup: Setup, fit: Fit) -> int:
    """The same, wherever it lies. What is offloaded serves nothing else, so it is a copy."""
    stage = zero_stage(fit, setup)
    moments_of = 8 if setup.optimizer == "AdamW" else 0
    if stage == 0:
        return moments_of * shape.trainable
    same = stage == 3 and setup.precision == "FP32" and not fit.offloads
    return share(((0 if same else 4) + moments_of) * shape.trainable, fit)


def _gradients(shape: Shape, setup: Setup, fit: Fit) -> tuple[int, int, int, int]:
    """Bytes while a micro-batch of a later one begins backward; after the last one; while the
    optimizer updates; and the temporaries of that update.

    ZeRO 0 and 1 hold 4T, ZeRO 2 and 3 hold 4T/w; in BF16 ZeRO 1 holds them from the start. In FP32
    ZeRO 2 adds a micro-batch's gradients to those before it, in memory of their own. FP32 gradients
    are flattened into a copy before the update, which needs no temporaries: it is fused.
    """
    stage, exact = zero_stage(fit, setup), setup.precision == "FP32"
    full, part = 4 * shape.trainable, share(4 * shape.trainable, fit)
    several = fit.accumulation > 1
    if stage == 0:
        return (full if several else 0), full, full, 0
    flattened = part if exact else 0
    if fit.offload_optimizer:
        return _offloaded_gradients(shape, setup, fit)
    if stage == 3:
        return part, part, 2 * part, 0
    if stage == 1 and setup.precision == "BF16":
        return full, full, full, 0
    if stage == 1:
        return (full if several else 0), full, part, flattened
    whole = 2 * part if exact and several else part
    return (part if several else 0), whole, part, flattened


def _offloaded_gradients(shape: Shape, setup: Setup, fit: Fit) -> tuple[int, int, int, int]:
    """The same on a GPU whose optimizer is offloaded: at ZeRO 3 nothing.

    ZeRO 1 and 2 keep room for the largest tensor. ZeRO 1 holds all gradients until it reduces them.
    In 16 bits this rank's part of their sums stays on the GPU until the step.
    """
    if zero_stage(fit, setup) == 3:
        return 0, 0, 0, 0
    room = setup.number_bytes * shape.largest
    sums = 0 if setup.precision == "FP32" else share(4 * shape.trainable, fit)
    several = fit.accumulation > 1
    if zero_stage(fit, setup) == 1:
        full = 4 * shape.trainable
        return room + (full if several else 0), room + full, room + full + sums, 0
    return room + (sums if several else 0), room + sums, room + sums, 0


def _scattered(bucket: int, setup: Setup, fit: Fit) -> int:
    """Copies of a bucket while ZeRO-3 reduces and scatters it: one sorted by rank
    (``coalesced_collectives.py``), and one of gloo, which reduces the whole and cuts out a part."""
    if fit.world_size == 1:
        return 0
    return bucket * (2 if setup.device == "CPU" else 1)


def activations(shape: Shape, setup: Setup, fit: Fit) -> int:
    """All layers, the final norm, and the supervised positions that the head is given.

    With activation checkpointing the input of each layer is all that is kept: chL a token.
    """
    c, tokens = setup.number_bytes, fit.micro * setup.row_tokens
    targets = fit.micro * min(setup.row_targets, setup.row_tokens)
    plain = shape.rms_norm and not setup.lora_rank and not _fused(shape, setup, fit)
    norm = 3 if plain else 2
    end = c * shape.hidden * (norm * tokens + targets)
    if fit.activation_checkpointing:
        return c * tokens * shape.hidden * shape.layers + end
    return shape.layers * layer_activations(shape, setup, fit) + end


def layer_activations(shape: Shape, setup: Setup, fit: Fit) -> int:
    """What one layer keeps for backward: t (4h + 2a + 2k + mf) numbers, and a little more.

    4h: input and output of both norms; 2a + 2k: queries and the output of attention, keys and
    values (on CPUs repeated for grouped queries, k = a); m: 4 for a gated MLP, 3 where its gate is
    fused, 2 else, 5 where GELU is computed in steps. RMSNorm, unless fused, keeps its input in fp32
    and, where its weight is trained, the normalized input. Packed rows have a mask of one number
    for each pair of tokens of a row; or, sample by sample on CPUs, the output of attention a second
    time, put together again; on GPUs in 16 bits one kernel needs neither. An adapter keeps its
    inner numbers, with dropout a mask and, where it is not one piece with its layer, its own input,
    and with DoRA what the layer and the adapter give, which the magnitudes multiply.
    """
    c, tokens = setup.number_bytes, fit.micro * setup.row_tokens
    fused = _fused(shape, setup, fit)
    in_one_kernel = shape.by_sample and setup.device == "GPU" and c == 2
    wide = (3 if fused else 4) if shape.gated else 5 if shape.stepwise_gelu else 2
    keys = shape.key_value if in_one_kernel and shape.key_value else shape.attention
    numbers = 4 * shape.hidden + 2 * shape.attention + 2 * keys + wide * shape.intermediate
    if shape.rms_norm and not setup.lora_rank and not fused:
        numbers += 2 * shape.hidden
    if setup.packed and not in_one_kernel:
        numbers += shape.attention if shape.by_sample else setup.row_tokens
    size = c * numbers
    if shape.rms_norm and c == 2 and not fused:
        size += 2 * 2 * shape.hidden
    if setup.lora_rank and shape.layers:
        adapted = c * setup.lora_rank * shape.adapters
        if setup.lora_dropout:
            one_piece = shape.by_sample and not setup.dora and zero_stage(fit, setup) < 3
            adapted += (1 if one_piece else c + 1) * shape.adapter_inputs
        if setup.dora:
            adapted += 2 * c * shape.adapter_outputs
        size += -(-adapted // shape.layers)
    return tokens * size


def _fused(shape: Shape, setup: Setup, fit: Fit) -> bool:
    return shape.fused and setup.device == "GPU" and zero_stage(fit, setup) < 3


def _decomposition(shape: Shape, setup: Setup) -> int:
    """DoRA computes the norm of each adapted weight in every forward pass, from the whole weight:
    its change, that change scaled, and their sum (3hf), after a unit matrix of its inputs (f²)."""
    if not setup.dora:
        return 0
    wide = max(shape.intermediate, shape.hidden)
    return setup.number_bytes * (3 * shape.hidden * wide + wide * wide)


def _unpacked(shape: Shape, setup: Setup) -> int:
    """A layer in 4 bits is unpacked for each of its products, forward and backward, with the fp32
    scales of its blocks of 64."""
    largest = shape.largest_quantized
    return setup.number_bytes * largest + 4 * -(-largest // 64)


def _checkpoint_copy(shape: Shape, setup: Setup, fit: Fit) -> int:
    """12T/w with AdamW, 4T/w with SGD, in host memory: of a rank on CPU, beside a GPU."""
    if not setup.checkpoint_copy or setup.device == "GPU":
        return 0
    return state_copy(shape, setup, fit)


def state_copy(shape: Shape, setup: Setup, fit: Fit) -> int:
    """Bytes of a rank's part of a checkpoint."""
    return share((12 if setup.optimizer == "AdamW" else 4) * shape.trainable, fit)


def share(size: int, fit: Fit) -> int:
    return -(-size // fit.world_size)
