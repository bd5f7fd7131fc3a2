# Generated from operator/finetune_operator/api/signatures/gpu.py: do not edit.
"""Failures of GPUs, their drivers and their memory."""

from __future__ import annotations

from .signature import Signature

_TORCH = "PyTorch, with the text of CUDA's error"
_OTHER_NODE = (
    "keep the pods off that node (cordon it, or spec.workers.affinity) and have its GPU checked"
)

GPU = (
    Signature(
        "GpuEcc",
        "HardwareFault",
        r"uncorrectable ECC error|ECC_UNCORRECTABLE",
        "The memory of a GPU returned data that its error correction could not repair.",
        _OTHER_NODE,
        _TORCH,
        ("CollectiveTimeout",),
    ),
    Signature(
        "GpuXid",
        "HardwareFault",
        r"NVRM: Xid|\bXid \(PCI:|GPU has fallen off the bus|\bGPU is lost\b",
        "The GPU's driver reported a fault (Xid) of the card, its memory or its connection.",
        _OTHER_NODE + "; the number after Xid says what is broken",
        "NVIDIA's kernel driver and NVML",
        ("CollectiveTimeout",),
    ),
    Signature(
        "NvlinkFault",
        "HardwareFault",
        r"uncorrectable NVLink error|peer GPU memory over nvlink or a hardware error",
        "The link between two GPUs of a node failed.",
        _OTHER_NODE,
        _TORCH,
        ("CollectiveTimeout",),
    ),
    Signature(
        "FabricManager",
        "HardwareFault",
        r"CUDA (?:error|driver initialization failed)\b.{0,80}(?:system not yet initialized"
        r"|initialization error)|Error 802: system not yet initialized",
        "CUDA did not come up on the node; on machines with NVSwitch the fabric manager is "
        "missing.",
        "look at nvidia-fabricmanager and the driver of that node; until then keep pods off it",
        _TORCH,
    ),
    Signature(
        "CudaOutOfMemory",
        "CudaOom",
        r"CUDA out of memory|CUDA error: out of memory|CUDA ran out of memory outside"
        r"|Cuda failure (?:\d{1,4} )?'out of memory'",
        "A GPU had no room for what a rank wanted to keep in its memory.",
        "lower spec.training.microBatchSize (the global batch stays) or spec.data.sequenceLength, "
        "set spec.training.activationCheckpointing: Enabled, raise spec.deepspeed.zeroStage, or "
        "set spec.deepspeed.offloadOptimizer: CPU",
        "PyTorch (c10/cuda) and NCCL",
        ("CollectiveTimeout",),
    ),
    Signature(
        "CublasInit",
        "CudaOom",
        r"CUBLAS_STATUS_(?:NOT_INITIALIZED|ALLOC_FAILED)",
        "cuBLAS could not set itself up, mostly because the GPU's memory is already full.",
        "lower spec.training.microBatchSize, and make sure that nothing else uses the GPU",
        "PyTorch, with cuBLAS' status",
    ),
    Signature(
        "CudnnInit",
        "CudaOom",
        r"CUDNN_STATUS_(?:NOT_INITIALIZED|ALLOC_FAILED|INTERNAL_ERROR_(?:DEVICE|HOST)_ALLOC)",
        "cuDNN could not set itself up, mostly because the GPU's memory is already full.",
        "lower spec.training.microBatchSize, and make sure that nothing else uses the GPU",
        "PyTorch, with cuDNN's status",
    ),
    Signature(
        "DeviceAssert",
        "Internal",
        r"device-side assert triggered|\.cu:\d{1,6}: .{1,300}: block: \[.{1,60}\].{0,60}Assertion",
        "A check inside a GPU kernel failed, mostly an index out of range: a token id that is not "
        "in the model's vocabulary.",
        "check that the tokenizer beside spec.model.uri belongs to that model",
        _TORCH,
    ),
    Signature(
        "IllegalMemoryAccess",
        "Internal",
        r"an illegal memory access was encountered|CUDA error: misaligned address"
        r"|CUDA error: unspecified launch failure",
        "A GPU kernel touched memory that is not its own: a fault of the program or of the card.",
        "if it comes again on the same node, keep pods off it; if it comes everywhere, try another "
        "trainer image",
        _TORCH,
        ("CollectiveTimeout",),
    ),
    Signature(
        "GpuBusy",
        "Internal",
        r"CUDA-capable device\(s\) is/are busy or unavailable",
        "Another process holds the GPU that this rank was given.",
        "end what else runs on that GPU of the node, or take it out of exclusive mode",
        _TORCH,
    ),
    Signature(
        "DriverTooOld",
        "ConfigInvalid",
        r"NVIDIA driver on your system is too old"
        r"|driver version is insufficient for CUDA runtime version"
        r"|forward compatibility was attempted on non supported HW"
        r"|Insufficient driver: \d",
        "The node's NVIDIA driver is older than the CUDA of the trainer image.",
        "update the driver of the node, choose other nodes with spec.workers.nodeSelector, or use "
        "a "
        "trainer image with an older CUDA",
        "PyTorch (c10/cuda) and CUDA's runtime",
    ),
    Signature(
        "NoGpu",
        "Internal",
        r"Found no NVIDIA driver on your system|no CUDA-capable device is detected"
        r"|No CUDA GPUs are available|requires at least one CUDA device"
        r"|ProcessGroupNCCL is only supported with GPUs",
        "A rank sees no GPU in its container.",
        "check the device plugin and container runtime of the node; to train on CPU set "
        "spec.workers.ranksPerWorker instead of gpusPerWorker",
        "PyTorch",
    ),
    Signature(
        "NoKernelImage",
        "ConfigInvalid",
        r"no kernel image is available for execution on the device"
        r"|provided PTX was compiled with an unsupported toolchain",
        "The trainer image holds no code for this kind of GPU.",
        "choose nodes with a newer GPU with spec.workers.nodeSelector, or use a trainer image "
        "built "
        "for this one",
        _TORCH,
    ),
    Signature(
        "GpuMissing",
        "ConfigInvalid",
        r"CUDA error: invalid device ordinal",
        "A rank wants a GPU that its pod does not have.",
        "set spec.workers.gpusPerWorker to the number of GPUs that a pod really gets",
        _TORCH,
    ),
    Signature(
        "Bf16Unsupported",
        "ConfigInvalid",
        r"[Tt]ype bf16 is not supported|does not support (?:bfloat16|bf16)"
        r"|doesn't support bf16|bf16 is not supported",
        "The GPU cannot compute in BF16.",
        "set spec.training.precision: FP16 or FP32, or choose newer GPUs with "
        "spec.workers.nodeSelector",
        "DeepSpeed, PyTorch and transformers",
    ),
)
