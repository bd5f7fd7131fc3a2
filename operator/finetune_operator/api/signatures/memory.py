"""Failures of a pod's own memory, and ends by a signal."""

from __future__ import annotations

from .signature import Signature

_FAULTHANDLER = "Python's faulthandler, and the launcher of the ranks"

MEMORY = (
    Signature(
        "SharedMemory",
        "Internal",
        r"unable to (?:write to file </torch_|allocate shared memory\(shm\))"
        r"|Unexpected bus error encountered in worker|insufficient shared memory \(shm\)"
        r"|workers are out of shared memory|Couldn't allocate shared memory segment",
        "The shared memory of the pod (/dev/shm) is full.",
        "raise spec.workers.sharedMemory; it counts against spec.workers.resources.limits.memory",
        "PyTorch, torch.multiprocessing and its data loader",
    ),
    Signature(
        "BusError",
        "Internal",
        r"Fatal Python error: Bus error|ended by SIGBUS",
        "A rank touched memory that had no page behind it: /dev/shm is full, or a mapped file was "
        "cut short.",
        "raise spec.workers.sharedMemory, and check that nobody changes files of the claim of "
        "spec.storage",
        _FAULTHANDLER,
    ),
    Signature(
        "HostMemory",
        "Internal",
        r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory)|^MemoryError\b"
        r"|MemoryError: Unable to allocate|C10 Out of Memory|Errno 12\] Cannot allocate memory"
        r"|\bstd::bad_alloc\b",
        "The pod had no memory left for what was asked of it.",
        "raise resources.limits.memory of the stage (spec.prepare, spec.workers or spec.export), "
        "or "
        "lower spec.training.microBatchSize",
        "PyTorch (c10), NumPy, Python and C++'s library",
    ),
    Signature(
        "Killed",
        "Internal",
        r"ended by SIGKILL|killed by signal: Killed",
        "A process was killed without warning, mostly by the kernel when the pod or its node ran "
        "out "
        "of memory.",
        "raise resources.limits.memory of the stage (spec.prepare, spec.workers or spec.export), "
        "or "
        "look at the node's memory",
        "the launcher of the ranks, and PyTorch's data loader",
    ),
    Signature(
        "IllegalInstruction",
        "ConfigInvalid",
        r"Fatal Python error: Illegal instruction|ended by SIGILL",
        "The node's processor lacks an instruction that the trainer image uses (x86-64-v3: AVX2).",
        "choose nodes with a newer processor with spec.workers.nodeSelector",
        _FAULTHANDLER,
    ),
    Signature(
        "SegmentationFault",
        "Internal",
        r"Fatal Python error: Segmentation fault|ended by SIGSEGV",
        "Native code of a rank crashed.",
        "the stacks stand in the rank's log (status.logs); if it comes on one node only, keep pods "
        "off it, else try another trainer image",
        _FAULTHANDLER,
    ),
    Signature(
        "TooManyProcesses",
        "Internal",
        r"can't start new thread|pthread_create failed|BlockingIOError: \[Errno 11\] Resource temp"
        r"|fork: retry: Resource temporarily unavailable",
        "The pod may not start more processes or threads.",
        "raise the process limit of pods on that node (the kubelet's podPidsLimit), or use fewer "
        "ranks in a pod",
        "Python, OpenBLAS and shells",
    ),
)
