"""Frozen weights in few bits, and what of a job does not go with them."""

from __future__ import annotations

from enum import StrEnum

from .schema import Rule


class Quantization(StrEnum):
    """Number format in which frozen weights are kept."""

    NF4 = "NF4"


_QUANTIZED = "has(self.method.lora) && has(self.method.lora.quantization)"
QUANTIZATION_RULES = (
    Rule(
        cel=f"!({_QUANTIZED}) || self.workers.gpusPerWorker > 0",
        message="weights in 4 bits are multiplied by kernels for GPUs and the job has no GPU: "
        "remove quantization, or set workers.gpusPerWorker",
        field_path=".method.lora.quantization",
        check=lambda spec: not spec.method.quantized or spec.workers.gpus_per_worker > 0,
    ),
    Rule(
        cel=f"!({_QUANTIZED}) || !has(self.deepspeed.zeroStage) || self.deepspeed.zeroStage <= 2",
        message="ZeRO 3 partitions weights while they are loaded (zero.Init), and 4-bit weights of "
        "bitsandbytes are bytes whose scales lie beside them: set deepspeed.zeroStage to 2 or "
        "less, or remove it, or remove quantization",
        field_path=".method.lora.quantization",
        check=lambda spec: not spec.method.quantized or (spec.deepspeed.zero_stage or 0) <= 2,
    ),
    Rule(
        cel=f"!({_QUANTIZED}) || self.deepspeed.offloadParameters == 'None'",
        message="parameters are offloaded by ZeRO 3 alone, which cannot partition quantized "
        "weights: remove deepspeed.offloadParameters, or remove quantization",
        field_path=".method.lora.quantization",
        check=lambda spec: not spec.method.quantized or spec.deepspeed.offload_parameters == "None",
    ),
)
