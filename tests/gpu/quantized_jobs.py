"""Small jobs beside weights in 4 bits and beside the numbers that these are, one after the other in
a process of its own; what was measured goes to stdout as JSON."""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from nf4 import bytes_of, save_unpacked, unpacked
from unit.trainer.train.gangs import free_port
from unit.trainer.train.loops import NeverStop, recorder
from unit.trainer.train.tiny import random_rows, row_lengths, run_config, tiny_llama, write_rows

from finetune_operator.memory_ladder import Fit
from finetune_operator.memory_plan import Setup, Shape, weights
from finetune_trainer import gang as gangs
from finetune_trainer import session
from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.config import Lora, RunConfig
from finetune_trainer.gang import Gang
from finetune_trainer.loop import Loop
from finetune_trainer.model import load_model, load_quantized
from finetune_trainer.prepare.shape import shape_of, shape_of_job
from finetune_trainer.quantization import quantized_layers, unpack
from finetune_trainer.rendezvous import Place
from finetune_trainer.self_test import self_test

STEPS = 20
BF16 = torch.bfloat16
LORA: dict[str, Any] = {"rank": 8, "alpha": 16}
NF4: dict[str, Any] = {**LORA, "quantization": "NF4"}


class Meter:
    """Bytes of the GPU; nothing where there is none, as where these jobs are tried on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.began = self._allocated()

    def _allocated(self) -> int:
        return int(torch.cuda.memory_allocated()) if self.on_gpu else 0

    @property
    def now(self) -> int:
        return self._allocated() - self.began

    @property
    def peak(self) -> int:
        return int(torch.cuda.max_memory_allocated()) - self.began if self.on_gpu else 0


def loaded(model: Path, device: torch.device) -> dict[str, Any]:
    """What loading takes, what the plan says of it, and what the numbers are. Writes the folder
    ``unpacked`` beside the model's."""
    meter = Meter(device)
    packed = load_quantized(model, BF16, device)
    now, peak = meter.now, meter.peak
    layers = quantized_layers(packed)
    plain = load_model(model, BF16)
    parameters = sum(weight.numel() for weight in plain.parameters())
    told = shape_of_job({"shape": shape_of(plain), "parameters": parameters}, Lora(**NF4))
    sizes = {key: told[key] for key in ("trainable", "largest", "layers", "hidden", "attention")}
    shape = Shape(
        parameters=parameters,
        **sizes,
        intermediate=told["intermediate"],
        vocabulary=told["vocabulary"],
        gated=True,
        rms_norm=True,
        quantized=told["quantized"],
        quantized_bytes=told["quantizedBytes"],
    )
    fit = Fit(1, 1, activation_checkpointing=False, zero_stage=2, world_size=1, quantized=True)
    planned = weights(shape, Setup("BF16", "GPU", 64, 64, lora_rank=8), fit)[0]
    whole = [
        weight.nbytes
        for weight in packed.parameters()
        if getattr(weight, "quant_state", None) is None
    ]
    few = [bytes_of(layer.weight.data, layer.weight.quant_state) for layer in layers]
    off = max(
        float(
            (unpack(each.weight, each.weight.quant_state).float() - unpacked(each.weight))
            .abs()
            .max()
        )
        / float(unpacked(each.weight).abs().max())
        for each in layers
    )
    x = torch.randn(300, layers[0].in_features, dtype=BF16, device=device)
    apart = []
    for tokens in (1, 3, 40, 300):  # bitsandbytes has kernels for few
        with torch.no_grad():
            found = layers[0](x[:tokens]).float()
        expected = x[:tokens].float() @ unpacked(layers[0].weight).t()
        apart.append(float((found - expected).norm() / expected.norm()))
    save_unpacked(packed, plain, model.with_name("unpacked"))
    return {
        "layers": len(layers),
        "held": now,
        "loadingPeak": peak,
        "planned": planned,
        "real": sum(whole) + sum(few),
        "wholeBytes": 2 * parameters,
        "saved": 2 * told["quantized"] - told["quantizedBytes"],
        "unpackedOff": off,
        "withoutGradientOff": apart,
    }


def trained(
    gang: Gang, device: torch.device, model: Path, rows: Path, stage: int, lora: dict[str, Any]
) -> dict[str, Any]:
    """A job from its folder: self-test, steps, losses, gradients of the last one, peak memory."""
    config = RunConfig.model_validate(
        run_config(
            method={"lora": lora},
            zeroStage=stage,
            training={
                "steps": STEPS,
                "microBatchSize": 2,
                "accumulation": 1,
                "learningRate": 0.002,
                "precision": "BF16",
                "schedule": {"type": "Constant", "warmupFraction": 0.0},
            },
            workers={"count": 1, "ranksPerWorker": 1, "device": "GPU"},
        )
    )
    meter = Meter(device)
    workspace = Path(tempfile.mkdtemp())
    engine = session.build_engine(config, model, "BF16", device)
    held = meter.now
    train_rows = session.open_rows(rows)
    reporter = recorder(gang.place, workspace / "attempts" / "0")
    self_test(engine, gang, train_rows, reporter, workspace=workspace, isolated=True, step=0)
    loop = Loop(
        config=config,
        engine=engine,
        gang=gang,
        train_rows=train_rows,
        scored_rows=(),
        checkpoints=Checkpoints(workspace, 0, gang, keep=1, identity={}),
        shutdown=NeverStop(),  # type: ignore[arg-type]
        reporter=reporter,
    )
    loop.run()
    named = dict(engine.module.named_parameters())
    return {
        "losses": [step["loss"] for step in getattr(reporter, "steps", [])],
        "moved": sum(bool(named[name].any()) for name in engine.trainable if "lora_B" in name),
        "adapters": sum("lora_B" in name for name in engine.trainable),
        "stage": engine.stage,
        "held": held,
        "peak": meter.peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--width", type=int, default=1024)
    options = parser.parse_args()
    session.pick_device("GPU" if options.device == "cuda" else "CPU", 0)
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    place = Place(0, 0, 1, "localhost", free_port())
    gang = gangs.join(place, device, rendezvous_seconds=60, collective_seconds=60)
    model, rows = options.folder / "model", options.folder / "rows"
    sizes = {"hidden_size": options.width, "intermediate_size": 3 * options.width}
    tiny_llama(**sizes, num_hidden_layers=8).to(BF16).save_pretrained(model)
    write_rows(rows, random_rows(1, row_lengths(1, 8, longest=24)))
    told: dict[str, Any] = {"loaded": loaded(model, device)}
    for stage in (0, 1, 2):
        for name, folder, lora in (
            ("NF4", model, NF4),
            ("unpacked", model.with_name("unpacked"), LORA),
        ):
            told[f"{name} {stage}"] = trained(gang, device, folder, rows, stage, lora)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
