"""The one place that knows DeepSpeed: building, stepping, and looking into its partitions.

Everything else in the trainer sees this small surface, so another engine could take its place.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch

from finetune_trainer.config import Offload, Training
from finetune_trainer.costs import costs_of, ndim, numel
from finetune_trainer.errors import ConfigInvalid, NonFinite, StageError
from finetune_trainer.fast import accelerate
from finetune_trainer.fast.head import head_of
from finetune_trainer.partition import Partition, Piece
from finetune_trainer.replicas import sent_where_they_differ
from finetune_trainer.zero_config import NO_OFFLOAD, Precision, deepspeed_config

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepOutcome:
    """What became of one optimizer step; the same on every rank."""

    applied: bool
    """False: the gradients were not finite and the weights stayed as they were."""
    grad_norm: float
    """Norm of the whole gradient before clipping."""
    searching_scale: bool = False
    """FP16 only: not applied because the loss scale was too high; it has been lowered."""
    refused: bool = False
    """Not applied because the caller did not want it."""


@dataclass
class _OwnGuard:
    """ZeRO 0: DeepSpeed neither checks fp32 gradients nor reports their norm, so we do.

    Runs before the optimizer, on gradients that are already averaged over the ranks.
    """

    max_norm: float
    outcome: StepOutcome = field(default_factory=lambda: StepOutcome(True, 0.0))

    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norms = torch.stack([torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients])
        norm = float(torch.linalg.vector_norm(norms))
        self.outcome = StepOutcome(math.isfinite(norm), norm)
        if not self.outcome.applied:
            for parameter in parameters:
                parameter.grad = None  # an optimizer leaves parameters without gradient alone
        elif self.max_norm > 0 and norm > self.max_norm:
            torch._foreach_mul_(gradients, 1 / max(1.0, (norm + 1e-6) / self.max_norm))


def init_distributed(timeout: timedelta) -> None:
    """Let DeepSpeed adopt the process group that exists already."""
    import deepspeed
    import deepspeed.ops
    from deepspeed.git_version_info import installed_ops

    # Probing the ops runs compilers, and a "compatible" one would be built now: in an image
    # without a compiler that is the end. Only what was built with the image is used.
    vars(deepspeed.ops)["__compatible_ops__"] = dict(installed_ops)
    _import_muon_uncompiled()
    deepspeed.init_distributed(
        dist_backend=torch.distributed.get_backend(), timeout=timeout, verbose=False
    )


def _import_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon without compiling its kernels.

    DeepSpeed imports it in every run, to ask whether the optimizer is one. Compiling kernels that
    nobody calls loads the whole of torch's inductor: seconds of each start.
    """
    from deepspeed.runtime import compiler

    compile_, compiler.compile = compiler.compile, lambda: lambda function: function
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    finally:
        compiler.compile = compile_


@contextlib.contextmanager
def partitioned_loading(config: dict[str, Any]) -> Iterator[None]:
    """Under ZeRO 3, models loaded inside are split over the ranks tensor by tensor.

    Otherwise every rank would hold the whole model in host memory first.
    """
    if config["zero_optimization"]["stage"] != 3:
        yield
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    # transformers keeps only a weak reference
    alive = HfDeepSpeedConfig(config)  # type: ignore[no-untyped-call]
    yield
    del alive


class Engine:
    """A model under ZeRO with its optimizer. Methods are collective unless they say otherwise."""

    def __init__(
        self,
        model: torch.nn.Module,
        training: Training,
        stage: int,
        precision: Precision,
        offload: Offload = NO_OFFLOAD,
    ) -> None:
        import deepspeed

        # Not where the parameters lie: they may move to the GPU only with the engine.
        on_gpu = deepspeed.accelerator.get_accelerator().device_name() == "cuda"
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not trainable:
            raise ConfigInvalid("spec.method.lora.targetModules: no parameter would be trained")
        self.few_shapes = accelerate(model, stage=stage, on_gpu=on_gpu)
        """Batches of few different lengths take less memory: kernels are kept for each."""
        self.precision: Precision = precision
        self.stage = stage
        self.config = deepspeed_config(
            training,
            stage,
            precision,
            trainable=sum(map(numel, trainable.values())),
            offload=offload,
        )
        self.trainable = trainable
        """What the optimizer was given, by name."""
        self._names = {id(p): name for name, p in trainable.items()}
        self._guard = _OwnGuard(training.max_grad_norm) if stage == 0 else None
        try:
            with sent_where_they_differ(deepspeed.DeepSpeedEngine):
                self._engine, self._optimizer, *_ = deepspeed.initialize(
                    model=model,
                    optimizer=_optimizer(list(trainable.values()), training),
                    config=self.config,
                )
        except (ValueError, AssertionError, NotImplementedError) as error:
            raise ConfigInvalid(
                f"these settings do not work together (zeroStage {stage}, {precision}): {error}"
            ) from error
        if self._guard is not None:
            self.base_optimizer.register_step_pre_hook(self._guard)
        self._offload = offload
        self._check()
        self.head = head_of(self.module)
        """What makes the loss without all logits at once; None where the model does not fit."""
        self.costs = costs_of(self.module)

    @property
    def module(self) -> Any:
        """The model itself, without ZeRO's wrapper."""
        return self._engine.module

    @property
    def device(self) -> torch.device:
        return torch.device(self._engine.device)

    @property
    def base_optimizer(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = self._engine.basic_optimizer
        return optimizer

    @property
    def loss_scale(self) -> float:
        return float(getattr(self._optimizer, "loss_scale", 1.0)) if self._fp16 else 1.0

    @property
    def _fp16(self) -> bool:
        return self.precision == "FP16"

    def train(self) -> None:
        self._engine.train()

    def eval(self) -> None:
        self._engine.eval()

    def __call__(self, **inputs: Any) -> Any:
        """Forward pass."""
        return self._engine(**inputs)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of ``loss`` to that of the window; averages over ranks, nothing else.

        A loss that is not finite can have a finite gradient. It must not be applied either, so it
        becomes one that is not finite, without waiting for the device.
        """
        sound = torch.where(torch.isfinite(loss.detach()), 1.0, math.nan)
        self._engine.backward(loss * sound, scale_wrt_gas=False)

    def refuse(self, learning_rate: float) -> StepOutcome:
        """End the window without applying it; a backward pass of NaN must have been its last.

        To the engine it is a step with a gradient that is not finite: it changes no weight and no
        state of the optimizer. The loss scale of FP16 must not take it for its own overflow.
        """
        scaler = self.scaler_state()
        if scaler:  # at its minimum it would give up
            self.restore_scaler({"cur_scale": 2 * scaler["cur_scale"]})
        outcome = self.step(learning_rate)
        self.restore_scaler(scaler)
        return replace(outcome, applied=False, searching_scale=False, refused=True)

    def step(self, learning_rate: float) -> StepOutcome:
        """End the window: reduce, check, clip, update. Raises ``NonFinite`` at the last resort."""
        for group in self.base_optimizer.param_groups:
            group["lr"] = learning_rate
        try:
            self._engine.step()
        except Exception as error:
            if "minimum" in str(error) and "scale" in str(error):
                raise NonFinite(
                    f"FP16 gradients overflow even at the smallest loss scale: {error}",
                    hint="use precision BF16 or FP32, or a lower learning rate",
                ) from error
            raise
        self._forget_gradients()
        if self._guard is not None:
            return self._guard.outcome
        applied = bool(self._engine.was_step_applied())
        norm = self._engine.get_global_grad_norm()
        return StepOutcome(
            applied=applied,
            grad_norm=math.nan if norm is None else float(norm),
            searching_scale=self._fp16 and not applied,
        )

    def _forget_gradients(self) -> None:
        """Let a weight that no token of the next window reaches, as an expert's, have gradient 0.

        DeepSpeed 0.19 would leave the last window's in its place, or add to it: at ZeRO 3, and with
        an offloaded optimizer.
        """
        if self.stage == 3:
            self._optimizer.grad_partitions_flat_buffer.zero_()
        if self._offload.optimizer == "CPU":
            masters = (
                self._optimizer.fp32_partitioned_groups_flat
                if self.stage == 3
                else self._optimizer.single_partition_of_fp32_groups
            )
            sums = getattr(self._optimizer, "accumulated_grads_in_cpu", {}).values()
            for gradient in (*(master.grad for master in masters), *sums):
                gradient.zero_()

    def partitions(self) -> list[Partition]:
        """Master weights and optimizer state that this rank owns. Not collective.

        The memory is the engine's own: writing into it is how a checkpoint is loaded, followed by
        `masters_changed`.
        """
        if self.stage == 0:
            return self._whole_parameters()
        if self.stage == 3:
            return self._stage3_partitions()
        return self._stage12_partitions()

    def masters_changed(self) -> None:
        """Carry new master weights (after a load) into the weights that compute."""
        if self.stage == 0:
            return
        optimizer = self._optimizer
        if self.stage in (1, 2):
            optimizer.update_lp_params()
            return
        for index, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
            target = optimizer.fp16_partitioned_groups_flat[index]
            target.data.copy_(flat.data)
            pieces = optimizer.unflatten(target, optimizer.fp16_partitioned_groups[index])
            for parameter, piece in zip(
                optimizer.fp16_partitioned_groups[index], pieces, strict=True
            ):
                parameter.data = piece.data
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)
        optimizer.checkpoint_event_epilogue()

    def scaler_state(self) -> dict[str, float]:
        """The dynamic loss scale of FP16, as numbers; empty otherwise. Not collective."""
        if not self._fp16:
            return {}
        scaler = self._optimizer.loss_scaler
        return {key: float(getattr(scaler, key)) for key in _SCALER_KEYS}

    def restore_scaler(self, state: dict[str, float]) -> None:
        for key, value in state.items():
            current = getattr(self._optimizer.loss_scaler, key)
            setattr(self._optimizer.loss_scaler, key, type(current)(value))

    def gather_weights(self, *, trainable_only: bool) -> dict[str, torch.Tensor]:
        """The weights in host memory on rank 0, by name; empty on other ranks."""
        gathered: dict[str, torch.Tensor] = {}
        first = torch.distributed.get_rank() == 0
        for name, parameter in self.module.named_parameters():
            if trainable_only and not parameter.requires_grad:
                continue
            with self._whole(parameter):
                if first:
                    gathered[name] = parameter.detach().to("cpu", copy=True)
        if first and not trainable_only:
            kept = self.module.state_dict().keys()  # buffers that can be computed are not in it
            for name, buffer in self.module.named_buffers():
                if name in kept:
                    gathered[name] = buffer.detach().to("cpu", copy=True)
        return gathered

    @contextlib.contextmanager
    def _whole(self, parameter: torch.nn.Parameter) -> Iterator[None]:
        if self.stage != 3:
            yield
            return
        import deepspeed

        # A list and a rank: other arguments are ignored in silence, or keep the memory.
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            yield

    def _whole_parameters(self) -> list[Partition]:
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        parameters = [p for group in self.base_optimizer.param_groups for p in group["params"]]
        return [
            Partition(
                master=parameter.data,
                state=self.base_optimizer.state[parameter],
                pieces=(Piece(self._names[id(parameter)], 0, parameter.numel(), 0),),
                mine=index % world == rank,
            )
            for index, parameter in enumerate(parameters)
        ]

    def _stage12_partitions(self) -> list[Partition]:
        optimizer = self._optimizer
        bf16_wrapper = hasattr(optimizer, "fp32_groups_flat_partition")
        flats = (
            optimizer.fp32_groups_flat_partition
            if bf16_wrapper
            else optimizer.single_partition_of_fp32_groups
        )
        groups = optimizer.bf16_groups if bf16_wrapper else optimizer.bit16_groups
        return [
            Partition(flat, self.base_optimizer.state[flat], tuple(self._mapped(group)))
            for flat, group in zip(flats, groups, strict=True)
        ]

    def _mapped(self, group: list[torch.nn.Parameter]) -> Iterator[Piece]:
        for parameter in group:
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is None:  # no part of it lies on this rank
                continue
            yield Piece(
                name=self._names[id(parameter)],
                start=mapping.lp_fragment_address.start,
                numel=mapping.lp_fragment_address.numel,
                offset=mapping.hp_fragment_address.start,
            )

    def _stage3_partitions(self) -> list[Partition]:
        optimizer, rank = self._optimizer, torch.distributed.get_rank()
        pieces: list[list[Piece]] = [[] for _ in optimizer.fp32_partitioned_groups_flat]
        for group in optimizer.fp16_groups:
            for parameter in group:
                index, offset, padded = optimizer.grad_position[optimizer.get_param_id(parameter)]
                start = rank * padded
                count = max(0, min(padded, parameter.ds_numel - start))
                if count:
                    pieces[index].append(Piece(self._names[id(parameter)], start, count, offset))
        return [
            Partition(flat, self.base_optimizer.state[flat], tuple(found))
            for flat, found in zip(optimizer.fp32_partitioned_groups_flat, pieces, strict=True)
        ]

    def _check(self) -> None:
        """DeepSpeed ignores top-level keys that it does not know: ask what it believes."""
        engine, config = self._engine, self.config
        believed = {
            "managed_gradient_accumulation": engine.managed_gradient_accumulation(),
            "gradient_clipping": engine.gradient_clipping(),
            "stage": engine.zero_optimization_stage(),
            "bf16": engine.bfloat16_enabled(),
            "fp16": engine.fp16_enabled(),
            "offload_optimizer": bool(engine.zero_cpu_offload()),
            "offload_param": "cpu" in str(getattr(engine.zero_offload_param(), "device", "none")),
        }
        wanted = {
            "managed_gradient_accumulation": False,
            "gradient_clipping": config["gradient_clipping"],
            "stage": self.stage,
            "bf16": self.precision == "BF16",
            "fp16": self._fp16,
            "offload_optimizer": self._offload.optimizer == "CPU",
            "offload_param": self._offload.parameters == "CPU",
        }
        if believed != wanted:
            raise StageError(f"DeepSpeed runs with {believed} instead of {wanted}")


_SCALER_KEYS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def _optimizer(parameters: list[torch.nn.Parameter], training: Training) -> torch.optim.Optimizer:
    settings = training.optimizer
    decayed = [p for p in parameters if settings.weight_decay and ndim(p) >= 2]
    kept = [p for p in parameters if not settings.weight_decay or ndim(p) < 2]
    groups = [
        {"params": found, "weight_decay": decay}
        # Weight decay pulls matrices towards zero; norms and biases are left alone.
        for found, decay in ((decayed, settings.weight_decay), (kept, 0.0))
        if found
    ]
    if settings.type == "SGD":
        return torch.optim.SGD(groups, lr=training.learning_rate)
    return torch.optim.AdamW(
        groups,
        lr=training.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,  # one pass over the states instead of one for each operation
    )


def prepare_environment(device: str) -> None:
    """What DeepSpeed reads when it is imported: call before."""
    if device == "CPU":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
