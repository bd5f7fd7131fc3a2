"""Failures of the software in the trainer image, and of settings that contradict each other."""

from __future__ import annotations

from .signature import Signature

_IMAGE = "use the trainer image that belongs to this release (the chart's trainer.image)"

SOFTWARE = (
    Signature(
        "DeepspeedBatch",
        "ConfigInvalid",
        r"Check batch related parameters|train_batch_size is not equal to"
        r"|Either train_batch_size or train_micro_batch_size_per_gpu needs",
        "The batch sizes do not multiply: global = micro × accumulation × ranks.",
        "set only spec.training.globalBatchSize, or values that multiply with the number of ranks",
        "DeepSpeed, runtime/config.py",
    ),
    Signature(
        "DeepspeedConfig",
        "ConfigInvalid",
        r"DeepSpeedConfigError|validation errors? for DeepSpeed\w{1,40}Config"
        r"|bfloat16 and fp16 modes cannot be simultaneously enabled",
        "DeepSpeed refuses its settings.",
        "leave spec.deepspeed.zeroStage and spec.training.precision to their defaults, then change "
        "one at a time",
        "DeepSpeed, runtime/config.py",
    ),
    Signature(
        "LossScale",
        "NonFinite",
        r"Current loss scale already at minimum|overflow even at the smallest loss scale",
        "FP16 gradients overflow however small the loss is scaled.",
        "set spec.training.precision: BF16 or FP32, or lower spec.training.learningRate",
        "DeepSpeed, runtime/fp16/loss_scaler.py",
    ),
    Signature(
        "NotFinite",
        "NonFinite",
        r"loss or gradients are not finite at step \d{1,9}"
        r"|returned nan values in its \d{1,6}th output",
        "Loss or gradients became infinite or not a number.",
        "lower spec.training.learningRate or spec.training.maxGradNorm, and look at the rows named",
        "the trainer, and PyTorch's anomaly detection",
    ),
    Signature(
        "OperatorBuild",
        "Internal",
        r"Unable to JIT load the .{1,60} op\b|Error building extension '"
        r"|CUDA_HOME does not exist, unable to compile"
        r"|No such file or directory: '\S{0,200}(?:c\+\+|g\+\+|nvcc)'",
        "DeepSpeed or PyTorch wanted to compile an operation and could not.",
        _IMAGE + ": it holds the compiled operations",
        "DeepSpeed, ops/op_builder, and torch.utils.cpp_extension",
    ),
    Signature(
        "ModuleMissing",
        "Internal",
        r"ModuleNotFoundError: No module named|^No module named '",
        "The trainer image lacks a Python package, or has another version of it.",
        _IMAGE,
        "Python",
    ),
    Signature(
        "LibraryMissing",
        "Internal",
        r"(?:ImportError|OSError): \S{1,200}(?:: cannot open shared object file"
        r"|: undefined symbol: )"
        r"|version `\w{1,20}_[\d.]{1,12}' not found",
        "A shared library is missing or of another version than the program was built for.",
        _IMAGE,
        "the dynamic loader, by Python",
    ),
    Signature(
        "ImportBroken",
        "Internal",
        r"ImportError: cannot import name|partially initialized module",
        "Two Python packages of the trainer image do not fit together.",
        _IMAGE,
        "Python",
    ),
)
