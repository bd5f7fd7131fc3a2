"""Small jobs on a GPU, one after the other in a process of its own: every ZeRO stage, precision and
offload, a stopped and resumed one, and one without memory. What came out goes to stdout as JSON."""

from __future__ import annotations

import argparse
import gc
import json
import os
from pathlib import Path
from typing import Any

import torch
from unit.trainer.train.gangs import free_port
from unit.trainer.train.loops import NeverStop, recorder
from unit.trainer.train.tiny import random_rows, row_lengths, run_config, tiny_llama, write_rows

from finetune_trainer import gang as gangs
from finetune_trainer import session
from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.config import RunConfig
from finetune_trainer.errors import failure_class
from finetune_trainer.gang import Gang
from finetune_trainer.loop import Loop
from finetune_trainer.rendezvous import Place
from finetune_trainer.self_test import self_test
from finetune_trainer.state import TrainState

STEPS = 8
AS_PLAIN = {"maxGradNorm": 0.0, "optimizer": {"epsilon": 1e-6}}
"""Settings of the reference in plain torch; the epsilon keeps noise of sums out of the updates."""
LORA = {"rank": 4, "alpha": 8, "dropout": 0.1}


class Stop:
    """Asks to stop after so many steps."""

    def __init__(self, after: int) -> None:
        self.after, self.asked = after, 0

    @property
    def agreed(self) -> bool:
        self.asked += 1
        return self.asked > self.after


class Jobs:
    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        place = Place(0, 0, 1, "localhost", free_port())
        self.gang: Gang = gangs.join(place, device, rendezvous_seconds=60, collective_seconds=60)
        sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
        tiny_llama(**sizes).save_pretrained(folder / "model")
        write_rows(folder / "rows", random_rows(1, row_lengths(3, 17)))

    def train(
        self,
        name: str,
        *,
        precision: str = "BF16",
        stage: int = 2,
        attempt: int = 0,
        stop_after: int | None = None,
        method: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        **config: Any,
    ) -> dict[str, Any]:
        made = RunConfig.model_validate(
            run_config(
                method=method or {},
                zeroStage=stage,
                training={
                    "steps": STEPS,
                    "microBatchSize": 2,
                    "accumulation": 4,
                    "learningRate": 0.003,
                    "precision": precision,
                    **(training or {}),
                },
                workers={"count": 1, "ranksPerWorker": 1, "device": "GPU"},
                **config,
            )
        )
        gc.collect()
        workspace = self.folder / name
        checkpoints = Checkpoints(workspace, attempt, self.gang, keep=2, identity={})
        parent = checkpoints.choose_parent()
        found = session.resolve_precision(precision, self.device)
        engine = session.build_engine(made, self.folder / "model", found, self.device)
        state = TrainState()
        if parent is not None:
            state = TrainState.restored(checkpoints.load(engine, parent))
        rows = session.open_rows(self.folder / "rows")
        attempt_folder = workspace / "attempts" / str(attempt)
        reporter = recorder(self.gang.place, attempt_folder, attempt)
        self_test(
            engine, self.gang, rows, reporter, workspace=workspace, isolated=True, step=state.step
        )
        loop = Loop(
            config=made,
            engine=engine,
            gang=self.gang,
            train_rows=rows,
            scored_rows=(),
            checkpoints=checkpoints,
            shutdown=NeverStop() if stop_after is None else Stop(stop_after),  # type: ignore[arg-type]
            reporter=reporter,
            state=state,
        )
        told: dict[str, Any] = {"failure": None, "resumed": parent.step if parent else None}
        try:
            loop.run()
        except Exception as error:
            told["failure"] = failure_class(error).name
            told["message"] = str(error)[:500]
        told["losses"] = [step["loss"] for step in getattr(reporter, "steps", [])]
        told["norms"] = [step["gradNorm"] for step in getattr(reporter, "steps", [])]
        told["skipped"] = state.skipped_steps
        told["sum"] = sum(
            float(tensor.double().abs().sum())
            for tensor in engine.gather_weights(trainable_only=True).values()
        )
        return told

    def without_memory(self) -> dict[str, Any]:
        """A job that may have less of the GPU than it needs."""
        torch.cuda.empty_cache()
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total)
        try:
            return self.train("no-memory", stage=0, precision="FP32", data={"sequenceLength": 64})
        except Exception as error:  # before the first step
            return {"failure": failure_class(error).name, "message": str(error)[:500]}
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=("GPU", "CPU"), default="GPU")
    options = parser.parse_args()
    folder, device = options.folder, session.pick_device(options.device, 0)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    jobs, on_gpu = Jobs(folder, device), device.type == "cuda"
    told: dict[str, Any] = {}
    for stage in range(4):
        for precision in ("FP32", "BF16", "FP16") if on_gpu else ("FP32", "BF16"):
            told[f"{precision} {stage}"] = jobs.train(
                f"{precision}-{stage}", precision=precision, stage=stage, training=AS_PLAIN
            )
        told[f"LoRA {stage}"] = jobs.train(f"lora-{stage}", stage=stage, method={"lora": LORA})
    plain = {"lora": {**LORA, "dropout": 0.0}}
    told["checkpointing"] = jobs.train(
        "checkpointing", method=plain, training={"activationCheckpointing": True}
    )
    told["not checkpointing"] = jobs.train("not-checkpointing", method=plain)
    told["offload 2"] = jobs.train(
        "offload-2", stage=2, training=AS_PLAIN, offload={"optimizer": "CPU"}
    )
    told["offload 3"] = jobs.train(
        "offload-3", stage=3, training=AS_PLAIN, offload={"optimizer": "CPU", "parameters": "CPU"}
    )
    told["again"] = jobs.train("again", method={"lora": LORA})
    told["stopped"] = jobs.train("resumed", method={"lora": LORA}, stop_after=4)
    told["resumed"] = jobs.train("resumed", method={"lora": LORA}, attempt=1)
    if on_gpu:
        told["no memory"] = jobs.without_memory()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
