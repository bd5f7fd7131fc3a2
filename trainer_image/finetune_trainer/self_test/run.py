"""The order of the self-test, and how the ranks agree on what it found."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch

from finetune_trainer.batches import PackedRows
from finetune_trainer.engine import Engine
from finetune_trainer.errors import SelfTestFailed, StageError
from finetune_trainer.gang import Gang
from finetune_trainer.loss import accepts_logits_to_keep
from finetune_trainer.reporter import Reporter
from finetune_trainer.self_test.gradients import gradient_fault
from finetune_trainer.self_test.packing import OTHER_SHAPE, packing_fault
from finetune_trainer.self_test.pieces import alone, pieces_of
from finetune_trainer.witness import decoder_of, mask_fault, read_witnesses

HINTS = {
    "packing": 'set spec.data.packing to "None" for this model',
    "ranks": "is a GPU of the gang faulty? The logs of the ranks say on which nodes they ran",
    "mask": "remove data/ of this job from the claim, so that it is prepared anew; "
    "if that does not help, report it as a bug",
    "gradients": "name other layers in spec.method.lora.targetModules, or turn "
    "spec.training.activationCheckpointing off",
}

log = logging.getLogger(__name__)


def self_test(
    engine: Engine,
    gang: Gang,
    rows: PackedRows,
    reporter: Reporter,
    *,
    workspace: Path,
    isolated: bool,
    step: int,
) -> None:
    """Prove packing, mask and gradients on real samples. Collective.

    Changes no weight, no gradient, no state of the optimizer and no random state, so a run with it
    equals one without. Raises ``SelfTestFailed`` on all ranks alike, naming the check.
    """
    began = time.monotonic()

    def beat() -> None:
        reporter.beat("load", step)

    pieces = pieces_of(rows)
    keep = accepts_logits_to_keep(engine.module)
    faults: dict[str, str | None] = {}
    told: dict[str, float] = {}
    faults["mask"] = gang.broadcast(_mask(rows, workspace) if gang.is_first else None)
    devices = [engine.device] if engine.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        if pieces and isolated:
            engine.eval()
            faults["packing"], told = packing_fault(engine, pieces, logits_to_keep=keep, beat=beat)
        engine.train()
        if pieces:
            faults["gradients"] = gradient_fault(engine, alone(pieces[:1]), logits_to_keep=keep)
            beat()
    check, fault = agreed(gang.gather((faults, told)), OTHER_SHAPE[engine.precision])
    seconds = time.monotonic() - began
    reporter.self_tested({"passed": fault is None, "fault": fault, **told}, seconds)
    if check is not None and fault is not None:
        raise SelfTestFailed(f"the self-test before the first step: {fault}", hint=HINTS[check])
    log.info("self-test passed in %.1f s: %s", seconds, _summary(faults, told))


def _mask(rows: PackedRows, workspace: Path) -> str | None:
    try:
        witnesses = read_witnesses(workspace / "data" / "train")
        if not witnesses:
            return None
        return mask_fault(rows, witnesses, decoder_of(workspace / "model"))
    except StageError as error:
        return error.message


def agreed(
    found: list[tuple[dict[str, str | None], dict[str, float]]], tolerance: float
) -> tuple[str | None, str | None]:
    """The first fault of the first rank that has one, or that ranks compute different losses."""
    for rank, (faults, _) in enumerate(found):
        for check, fault in faults.items():
            if fault is not None:
                everywhere = all(other.get(check) for other, _ in found)
                return check, fault if everywhere else f"rank {rank}: {fault}"
    losses = [told["alone"] for _, told in found if math.isfinite(told.get("alone", math.nan))]
    if losses and max(losses) - min(losses) > tolerance * abs(losses[0]):
        low, high = losses.index(min(losses)), losses.index(max(losses))
        return "ranks", (
            f"ranks {low} and {high} compute different losses of the same samples, "
            f"{losses[low]:.6g} and {losses[high]:.6g} per token"
        )
    return None, None


def _summary(faults: dict[str, Any], told: dict[str, float]) -> str:
    losses = ", ".join(f"{name} {loss:.6g}" for name, loss in told.items())
    return ", ".join(faults) + (f" (loss {losses})" if losses else "")
