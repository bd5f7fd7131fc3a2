"""Failures of volumes and files."""

from __future__ import annotations

from .signature import Signature

_PYTHON = "Python, with the operating system's text"

FILES = (
    Signature(
        "DiskFull",
        "DiskFull",
        r"No space left on device|Errno 28\b",
        "A volume is full: the claim of spec.storage or of spec.output, or the node's disk.",
        "enlarge the claim, free space on it, or keep fewer checkpoints (spec.checkpoint.keep)",
        _PYTHON,
        ("BadData", "ModelLoad"),
    ),
    Signature(
        "DiskQuota",
        "DiskFull",
        r"Disk quota exceeded|Errno 122\b",
        "The storage's quota for this user or folder is used up.",
        "ask for more quota on the storage behind the claim, or free space on it",
        _PYTHON,
        ("BadData", "ModelLoad"),
    ),
    Signature(
        "ReadOnlyVolume",
        "Internal",
        r"Read-only file system|Errno 30\b",
        "A place where the job must write can only be read.",
        "check that the claims of spec.storage and spec.output are writable and that their volume "
        "was not remounted after a disk error",
        _PYTHON,
        ("BadData", "ModelLoad"),
    ),
    Signature(
        "StaleHandle",
        "HardwareFault",
        r"Stale (?:NFS )?file handle|Errno 116\b",
        "The network volume changed under the pod: its server restarted, or the file was replaced.",
        "another attempt mounts it anew; look at the file server behind the claim if it comes "
        "again",
        _PYTHON,
        ("BadData", "ModelLoad"),
    ),
    Signature(
        "VolumeError",
        "HardwareFault",
        r"\[Errno 5\] Input/output error|Input/output error \(os error 5\)"
        r"|\[Errno 121\] Remote I/O error"
        r"|Transport endpoint is not connected",
        "The disk or file server behind a volume failed to read or write.",
        "look at the storage behind the claim, and at the node's kernel log",
        _PYTHON,
        ("BadData", "ModelLoad"),
    ),
    Signature(
        "PermissionDenied",
        "ConfigInvalid",
        r"\[Errno 13\] Permission denied|Permission denied \(os error 13\)"
        r"|\[Errno 1\] Operation not permitted: ",
        "User 1000, as whom the pods run, may not use a file or folder.",
        "make the folder on the claim belong to group 1000 and writable for it; some file servers "
        "ignore fsGroup",
        _PYTHON,
        ("BadData", "ModelLoad"),
    ),
    Signature(
        "TooManyFiles",
        "Internal",
        r"Too many open files|Errno 24\b",
        "A process opened more files than it may.",
        "raise the limit of open files in the node's container runtime",
        _PYTHON,
    ),
    Signature(
        "TornArchive",
        "Internal",
        r"PytorchStreamReader failed|failed finding central directory"
        r"|Weights only load failed|unexpected pos \d{1,20} vs \d{1,20}",
        "A file of torch.save is torn, was not written to its end, or is no such file.",
        "copy it again; if the job wrote it, look at the volume of spec.storage",
        "PyTorch, torch.serialization",
        ("ModelLoad",),
    ),
)
