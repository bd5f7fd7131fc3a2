"""What the spec leaves open of a fit: chosen once, when prepare has told the model's shape.

Candidates stand in order of the time they cost. A smaller micro-batch with more accumulation costs
little, activation checkpointing about a third of the time, a higher ZeRO stage more traffic between
the ranks in each pass. The first that fits is taken; if none does, the one that needs least. The
global batch is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from .api.types import ActivationCheckpointing, FineTuneJobSpec, PlannedFit
from .memory_ladder import Fit

FREE_PERCENT = 15
"""Of a rank's memory that a choice leaves free: as much as a plan may be off, see the record."""


@dataclass(frozen=True)
class Open:
    """Parts of a fit that may be chosen."""

    micro: bool
    activation_checkpointing: bool
    zero_stage: bool


def left_open(spec: FineTuneJobSpec) -> Open:
    auto = spec.training.activation_checkpointing is ActivationCheckpointing.AUTO
    return Open(
        micro=spec.training.micro_batch_size is None,
        activation_checkpointing=auto,
        zero_stage=spec.deepspeed.zero_stage is None,
    )


def candidates(default: Fit, may: Open) -> list[Fit]:
    """The default first, which costs least time."""
    share = default.micro * default.accumulation
    stages, switches, micros = (
        [default.zero_stage],
        [default.activation_checkpointing],
        [default.micro],
    )
    if may.zero_stage and default.world_size > 1:
        stages = list(range(default.zero_stage, default.highest_stage + 1))
    if may.activation_checkpointing:
        switches = [False, True]
    if may.micro:
        micros = [n for n in range(default.micro, 0, -1) if share % n == 0]
    return [
        replace(
            default,
            micro=micro,
            accumulation=share // micro,
            activation_checkpointing=switch,
            zero_stage=stage,
        )
        for stage, switch, micro in product(stages, switches, micros)
    ]


@dataclass(frozen=True)
class Choice:
    """A fit, and what of it is to be kept, with reasons by the name of what was open."""

    fit: Fit
    planned: PlannedFit


def choose(default: Fit, may: Open, need: Callable[[Fit], int], available: int) -> Choice:
    """``need``: bytes that a rank needs with a fit. ``available``: bytes that it has."""
    tried = candidates(default, may)
    fit = _first_that_fits(tried, need, available * (100 - FREE_PERCENT) // 100)
    fit = fit or _first_that_fits(tried, need, available) or min(tried, key=need)
    reasons: dict[str, str] = {}

    def because(name: str, what: str, others: list[Fit]) -> None:
        least = min(need(other) for other in others)
        free = f", of which {FREE_PERCENT} % stay free" if least <= available else ""
        has = f"{gigabytes(least)} and has {gigabytes(available)}{free}"
        reasons[name] = f"{what} a rank is predicted to need {has}"
        if need(fit) > available:
            reasons[name] += "; nothing that was left open fits, and this needs least"

    if fit.micro != default.micro:
        larger = replace(fit, micro=default.micro, accumulation=default.accumulation)
        because("microBatchSize", f"with {default.micro}", [larger])
    if fit.zero_stage != default.zero_stage:
        below = [other for other in tried if other.zero_stage < fit.zero_stage]
        because("zeroStage", f"with {default.zero_stage}", below)
    if may.activation_checkpointing and fit.activation_checkpointing:
        alike = [other for other in tried if other.zero_stage == fit.zero_stage]
        without = [other for other in alike if not other.activation_checkpointing]
        because("activationCheckpointing", "without it", without)
    elif may.activation_checkpointing:
        because("activationCheckpointing", "not needed:", [fit])
    planned = PlannedFit(
        micro_batch_size=fit.micro if may.micro else None,
        zero_stage=fit.zero_stage if may.zero_stage else None,
        activation_checkpointing=switch_of(fit) if may.activation_checkpointing else None,
        reasons=reasons or None,
    )
    return Choice(fit, planned)


def _first_that_fits(fits: list[Fit], need: Callable[[Fit], int], most: int) -> Fit | None:
    return next((fit for fit in fits if need(fit) <= most), None)


def kept(default: Fit, planned: PlannedFit | None) -> Fit:
    """The default with what was chosen. With another number of ranks the micro-batch is the nearest
    that divides the global batch, and a single rank still has nothing to partition."""
    if planned is None:
        return default
    fit, share = default, default.micro * default.accumulation
    if planned.micro_batch_size:
        most = min(planned.micro_batch_size, share)
        micro = max(n for n in range(1, most + 1) if share % n == 0)
        fit = replace(fit, micro=micro, accumulation=share // micro)
    if planned.zero_stage is not None and fit.world_size > 1:
        fit = replace(fit, zero_stage=planned.zero_stage)
    if planned.activation_checkpointing:
        enabled = planned.activation_checkpointing == "Enabled"
        fit = replace(fit, activation_checkpointing=enabled)
    return fit


def switch_of(fit: Fit) -> Literal["Enabled", "Disabled"]:
    """Enabled or Disabled: activation checkpointing."""
    return "Enabled" if fit.activation_checkpointing else "Disabled"


def device_of(offloaded: bool) -> Literal["None", "CPU"]:
    """CPU or None: where a part of the state lies instead of the GPU."""
    return "CPU" if offloaded else "None"


def gigabytes(size: int) -> str:
    """For people: 4.7 GB."""
    return f"{size / 1e9:.1f} GB"
