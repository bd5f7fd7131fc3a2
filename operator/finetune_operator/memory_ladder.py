"""What a training that ran out of memory tries next: smaller, with the same global batch.

The rungs, in this order: a smaller micro-batch with more accumulation, until it is 1; activation
checkpointing; a higher ZeRO stage, where there are ranks to share with; beside GPUs, optimizer and
then parameters in host memory. Each costs more time than the one before and changes no result
beyond rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

HIGHEST_STAGE = 3
WITHOUT_COPY = "checkpoint.asynchronous Enabled → Disabled"
"""What frees host memory first, beside a GPU and without one. It changes nothing of the training,
so it is no rung of the ladder."""


@dataclass(frozen=True)
class Fit:
    """What decides how much memory a rank needs."""

    micro: int
    accumulation: int
    activation_checkpointing: bool
    zero_stage: int
    world_size: int
    checkpoint_copy: bool = False
    """A copy of the training state lies in host memory, for saving beside the training."""
    offload_optimizer: bool = False
    offload_parameters: bool = False
    on_gpu: bool = False
    """Host memory is another one than that in which the ranks compute: offload relieves it."""
    quantized: bool = False
    """Weights of few bits, which ZeRO 3 can neither partition nor offload."""

    @property
    def offloads(self) -> bool:
        return self.offload_optimizer or self.offload_parameters

    @property
    def highest_stage(self) -> int:
        return HIGHEST_STAGE - 1 if self.quantized else HIGHEST_STAGE


def next_rung(fit: Fit) -> tuple[Fit, str] | None:
    """The next smaller fit and what changes, in words; None: there is none."""
    share = fit.micro * fit.accumulation
    if fit.micro > 1:
        micro = max(size for size in range(1, fit.micro // 2 + 1) if share % size == 0)
        smaller = replace(fit, micro=micro, accumulation=share // micro)
        return smaller, (
            f"microBatchSize {fit.micro} → {micro}, "
            f"accumulation {fit.accumulation} → {smaller.accumulation}"
        )
    if not fit.activation_checkpointing:
        return replace(fit, activation_checkpointing=True), "activationCheckpointing Enabled"
    if fit.world_size > 1 and fit.zero_stage < fit.highest_stage:
        stage = fit.zero_stage + 1
        return replace(fit, zero_stage=stage), f"zeroStage {fit.zero_stage} → {stage}"
    if fit.on_gpu and not fit.offload_optimizer:
        return _at_stage(replace(fit, offload_optimizer=True), 2, "offloadOptimizer None → CPU")
    if fit.on_gpu and not fit.offload_parameters and not fit.quantized:
        return _at_stage(replace(fit, offload_parameters=True), 3, "offloadParameters None → CPU")
    return None


def _at_stage(fit: Fit, least: int, words: str) -> tuple[Fit, str]:
    """A single rank partitions nothing, but offload belongs to a stage."""
    if fit.zero_stage >= least:
        return fit, words
    return replace(fit, zero_stage=least), f"{words}, zeroStage {fit.zero_stage} → {least}"


def difference(before: Fit, after: Fit) -> str:
    """What a smaller fit is set to where it is not as before, in the order of the rungs."""
    parts = []
    if after.micro != before.micro:
        parts.append(f"microBatchSize {after.micro} and accumulation {after.accumulation}")
    if after.activation_checkpointing != before.activation_checkpointing:
        parts.append("activationCheckpointing Enabled")
    if after.zero_stage != before.zero_stage:
        parts.append(f"zeroStage {after.zero_stage}")
    if after.offload_optimizer != before.offload_optimizer:
        parts.append("offloadOptimizer CPU")
    if after.offload_parameters != before.offload_parameters:
        parts.append("offloadParameters CPU")
    return ", ".join(parts)


def descend(fit: Fit, changes: Sequence[str]) -> Fit:
    """Smaller by as many rungs as there are changes, or as small as it gets; without the copy where
    that is one of them."""
    if WITHOUT_COPY in changes:
        fit = replace(fit, checkpoint_copy=False)
    for _ in range(len(changes) - changes.count(WITHOUT_COPY)):
        rung = next_rung(fit)
        if rung is None:
            break
        fit, _ = rung
    return fit
