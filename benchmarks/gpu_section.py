"""The section "GPU": tokens per second, share of the peak, and memory beside the plan, one GPU."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import gpu
from benchmarks.gpu import Case, Told
from benchmarks.record import Section

SETS: dict[str, tuple[Case, ...]] = {
    "8B": (
        Case("LoRA r16", "8B", lora=16, micro=2, accumulation=4),
        Case("one row a micro-batch", "8B", lora=16),
        Case("without fused norms, gates and rotations", "8B", lora=16, without="fused"),
        Case("without adapters in one piece", "8B", lora=16, without="lora"),
        Case("without the loss in chunks", "8B", lora=16, without="head"),
        Case("without any of these", "8B", lora=16, without="fused,lora,head,varlen"),
        Case("activation checkpointing, 4 rows", "8B", 16, "full", 4, 2, checkpointing=True),
        Case("ZeRO 2", "8B", lora=16, stage=2),
        Case("frozen weights in 4 bits (NF4)", "8B", lora=16, micro=2, accumulation=4, nf4=True),
        Case("chat rows", "8B", lora=16, rows="chat"),
        Case("chat rows under a mask", "8B", lora=16, rows="chat", without="varlen"),
        Case("HF Trainer", "8B", lora=16, micro=2, accumulation=4, peer="plain", sums=""),
        Case("HF Trainer + DeepSpeed", "8B", lora=16, micro=2, accumulation=4, peer="plain"),
    ),
    "1B": (
        Case("full", "1B", micro=4, accumulation=4),
        Case("one row a micro-batch", "1B", accumulation=16),
        Case("without fused norms, gates and rotations", "1B", micro=4, accumulation=4,
             without="fused"),
        Case("without the loss in chunks", "1B", micro=4, accumulation=4, without="head"),
        Case("softmax by torch", "1B", micro=4, accumulation=4, without="softmax"),
        Case("without any of these", "1B", micro=4, accumulation=4, without="fused,head,varlen"),
        Case("activation checkpointing", "1B", micro=4, accumulation=4, checkpointing=True),
        Case("ZeRO 2", "1B", micro=4, accumulation=4, stage=2),
        Case("ZeRO 3", "1B", micro=4, accumulation=4, stage=3),
        Case("chat rows", "1B", rows="chat", micro=4, accumulation=4),
        Case("chat rows under a mask", "1B", rows="chat", micro=4, accumulation=4,
             without="varlen"),
        Case("HF Trainer", "1B", micro=4, accumulation=4, peer="plain", sums=""),
        Case("HF Trainer + DeepSpeed", "1B", micro=4, accumulation=4, peer="plain"),
        Case("HF Trainer + DeepSpeed, gradients added up in BF16", "1B", micro=4, accumulation=4,
             peer="plain", sums="bf16"),
        Case("chat rows, HF Trainer + DeepSpeed", "1B", 0, "chat", 8, 17, peer="plain"),
        Case("chat rows, HF Trainer + DeepSpeed, group_by_length", "1B", 0, "chat", 17, 8,
             peer="group_by_length"),
        Case("chat rows, HF Trainer + DeepSpeed, packing", "1B", 0, "chat", 8, 17,
             peer="packing"),
        Case("chat rows, HF Trainer + DeepSpeed, packing, 34 samples", "1B", 0, "chat", 34, 4,
             peer="packing"),
    ),
}  # fmt: skip


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--names", nargs="+", default=None, help="of the cases; all without")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each case")
    parser.add_argument("--scratch", default=None, help="folder with 40 GB for models")


def _measure(options: argparse.Namespace) -> str:
    if not torch.cuda.is_available():
        raise SystemExit("this section needs an NVIDIA GPU, and torch sees none")
    parts = [_head()]
    with tempfile.TemporaryDirectory(prefix="finetune-bench-", dir=options.scratch) as name:
        folder = Path(name)
        for kind in ("full", "chat"):
            gpu.write_rows(kind, folder / "data" / kind)
        for model in options.models:
            parameters = gpu.save_model(model, folder / model)
            found = []
            for _ in range(options.rounds):
                for case in SETS[model]:
                    if options.names is None or case.name in options.names:
                        told = gpu.run(case, folder / model, folder / "data", folder / "ws",
                                       parameters)  # fmt: skip
                        print(_line(told, parameters), flush=True)
                        found.append(told)
            shutil.rmtree(folder / model)
            parts.append(_table(model, found, parameters))
    return "\n\n".join(parts)


def _line(told: Told, parameters: int) -> str:
    if told.error:
        return f"{told.case.model} {told.case.name}: FAILED\n{told.error}"
    told_all = asdict(told) | {"mfu": round(told.mfu(parameters), 3)}
    return f"{told.case.model} {told.case.name}: {json.dumps(told_all)}"


def _head() -> str:
    from deepspeed import __version__ as deepspeed
    from transformers import __version__ as transformers

    return f"""
{torch.cuda.get_device_name()}, torch {torch.__version__}, DeepSpeed {deepspeed}, transformers
{transformers}; one rank, BF16 with fp32 masters, AdamW, clipping, gradients added up in fp32.
Random weights; rows of {gpu.TOKENS} tokens. Full rows: one sample each, all of it supervised. Chat
rows: samples packed, median 300 tokens, 95th percentile 1,500, two thirds supervised. {gpu.WARM_UP}
steps of warm-up, then those that count. Share of the peak: {gpu.PEAK_FLOPS / 1e12:.0f} TFLOP/s
dense; a token has 4 FLOPs by parameter with LoRA, 6 without; attention is not counted. Memory: what
torch had reserved at most, and the GPU's context, beside the memory plan. HF Trainer: with Liger's
kernels and loss in chunks, torch's fused AdamW and attention (no flash-attn); with DeepSpeed ZeRO-1
and fp32 masters, or alone under autocast; on chat rows 8 samples a micro-batch, by length 17. NCCL
with several GPUs was not run.
"""


def _table(model: str, found: list[Told], parameters: int) -> str:
    rows = []
    for told in found:
        case = told.case
        if told.error:
            rows.append(f"| {case.name} | failed | | | | |")
            continue
        peak, plan = told.memory["used"], told.predicted
        beside = f"{plan / 1e9:.1f} GB ({plan / peak - 1:+.0%})" if plan else "–"
        rows.append(
            f"| {case.name} | {told.speed:,.0f} | {told.mfu(parameters):.1%} | {gpu.spread(told)} "
            f"| {peak / 1e9:.1f} GB | {beside} |"
        )
    method = "LoRA, rank 16, all linear layers" if found and found[0].case.lora else "full"
    return f"""
### {model} ({parameters / 1e9:.2f} B parameters), {method}

| case | tokens/s | share of the peak | step | memory | plan |
|---|---|---|---|---|---|
{chr(10).join(rows)}
"""


SECTION = Section("GPU", _measure, _add_options)
