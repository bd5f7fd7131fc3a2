# Generated from operator/finetune_operator/api/signatures/communication.py: do not edit.
"""Failures between ranks: NCCL, gloo, the store in which they meet."""

from __future__ import annotations

from .signature import Signature

_NCCL = "NCCL, its warnings"
_NETWORK = (
    "check the network between the nodes; spec.workers.env can set NCCL_SOCKET_IFNAME, "
    "NCCL_IB_HCA and NCCL_DEBUG=WARN"
)
_PEER = "look for the rank that failed first: status.failure of the attempt names it"

COMMUNICATION = (
    Signature(
        "NcclSharedMemory",
        "Internal",
        r"failed to extend /dev/shm/nccl|Error while (?:creating"
        r"|attaching to) shared memory segment"
        r"|Call to posix_fallocate failed",
        "The shared memory of the pod (/dev/shm) is too small for NCCL.",
        "raise spec.workers.sharedMemory; it counts against spec.workers.resources.limits.memory",
        _NCCL,
        ("CollectiveTimeout",),
    ),
    Signature(
        "NcclNoInterface",
        "ConfigInvalid",
        r"[Bb]ootstrap ?: no socket interface found|NET/Socket : no interface found",
        "NCCL found no network interface that it may use.",
        "correct or remove NCCL_SOCKET_IFNAME in spec.workers.env",
        _NCCL,
        ("CollectiveTimeout",),
    ),
    Signature(
        "NcclVersionMismatch",
        "ConfigInvalid",
        r"Mismatched NCCL version detected|NCCL version mismatch with remote peer",
        "The pods of the gang run different versions of NCCL.",
        "let all pods use one trainer image: name it by digest, not by a tag that moves",
        _NCCL,
        ("CollectiveTimeout",),
    ),
    Signature(
        "NcclInfiniband",
        "CollectiveTimeout",
        r"NET/IB ?: ?(?:.{0,40}: )?Got (?:completion (?:from peer|with error)"
        r"|async event.{0,40}error)"
        r"|NCCL WARN Call to ibv_\w{1,40} failed",
        "An InfiniBand or RoCE connection between two nodes broke, or could not be made.",
        "check links, cables and switches of the nodes named; NCCL_IB_HCA in spec.workers.env "
        "picks "
        "adapters, NCCL_IB_DISABLE=1 goes back to TCP",
        _NCCL,
    ),
    Signature(
        "NcclConnect",
        "CollectiveTimeout",
        r"NCCL WARN .{0,80}[Cc]onnect to \S{1,120} (?:\S{0,120} )?(?:failed"
        r"|returned .{1,120}exceeded)",
        "A rank could not open a TCP connection to another one.",
        "let the pods of the job reach each other on all ports (NetworkPolicy, firewall); "
        "NCCL_SOCKET_IFNAME in spec.workers.env picks the interface",
        _NCCL,
        ("Rendezvous",),
    ),
    Signature(
        "NcclWatchdogTimeout",
        "CollectiveTimeout",
        r"Watchdog caught collective operation timeout",
        "A collective operation did not end in time: a rank hung, died, or was much slower.",
        _PEER + "; where all are well, check the network between the nodes",
        "PyTorch, ProcessGroupNCCL",
    ),
    Signature(
        "NcclWatchdogStuck",
        "Hang",
        r"ProcessGroupNCCL's watchdog got stuck for",
        "A call to CUDA or NCCL never came back, so that even the watchdog stood still.",
        "look at the GPU and driver of that node; keep pods off it if it comes again",
        "PyTorch, ProcessGroupNCCL",
        ("CollectiveTimeout",),
    ),
    Signature(
        "NcclRemoteGone",
        "CollectiveTimeout",
        r"ncclRemoteError|remote process exited or there was a network error",
        "NCCL lost the connection to another rank.",
        _PEER + "; where none did, check the network between the nodes",
        "PyTorch, ProcessGroupNCCL",
    ),
    Signature(
        "NcclCudaError",
        "CollectiveTimeout",
        r"ncclUnhandledCudaError|NCCL error.{0,120}unhandled cuda error",
        "A call to CUDA failed inside NCCL; a fault of a GPU or its driver is likely.",
        "set NCCL_DEBUG=WARN in spec.workers.env to see which call; check the node's GPU",
        "PyTorch, ProcessGroupNCCL",
    ),
    Signature(
        "NcclSystemError",
        "CollectiveTimeout",
        r"ncclSystemError|NCCL error.{0,120}unhandled system error",
        "A call to the operating system failed inside NCCL: a socket, shared memory or a device.",
        "set NCCL_DEBUG=WARN in spec.workers.env to see which call; " + _NETWORK.split(";")[0],
        "PyTorch, ProcessGroupNCCL",
    ),
    Signature(
        "NcclInternalError",
        "CollectiveTimeout",
        r"ncclInternalError|ncclInvalidUsage",
        "NCCL refused a call or failed a check of its own.",
        "set NCCL_DEBUG=WARN in spec.workers.env to see which; compare the images of the pods",
        "PyTorch, ProcessGroupNCCL",
    ),
    Signature(
        "PortInUse",
        "Rendezvous",
        r"EADDRINUSE|[Aa]ddress already in use",
        "The port in which ranks meet is taken by another process of the pod's network.",
        "wait: the next attempt takes another port; with host networking end the other process",
        "PyTorch, TCPStore",
    ),
    Signature(
        "RankZeroName",
        "Rendezvous",
        r"name of rank 0, .{1,253}, did not resolve"
        r"|network addresses of \(.{1,253}\) cannot be retrieved",
        "The name of rank 0's pod did not resolve.",
        "check the cluster's DNS and that rank 0's pod runs; the headless Service bears the job's "
        "name",
        "the trainer, and PyTorch's TCPStore",
    ),
    Signature(
        "RendezvousTimeout",
        "Rendezvous",
        r"client socket has (?:timed out after|failed to connect)"
        r"|wait timeout after \d{1,12}ms, keys",
        "The ranks did not all come to the place where they meet.",
        "see which pod of the gang is missing or late, and that NetworkPolicies let the job's pods "
        "reach each other",
        "PyTorch, TCPStore",
    ),
    Signature(
        "GlooMesh",
        "Rendezvous",
        r"Gloo connectFullMesh failed|GlooDeviceFactory::makeTCPDevice"
        r"|Unable to resolve hostname to a",
        "gloo could not connect every rank with every other one.",
        "let the job's pods reach each other on all ports; GLOO_SOCKET_IFNAME in spec.workers.env "
        "picks the interface",
        "PyTorch, gloo",
        ("CollectiveTimeout",),
    ),
    Signature(
        "GlooPeerGone",
        "CollectiveTimeout",
        r"gloo/transport/\S{1,80}\] ?(?:.{0,60})(?:Connection (?:closed|reset) by peer"
        r"|Broken pipe)",
        "A rank's connection to another one was closed: that one ended.",
        _PEER,
        "gloo",
    ),
    Signature(
        "GlooTimeout",
        "CollectiveTimeout",
        r"gloo/\S{1,80}\] ?Timed out waiting \d{1,12}ms",
        "A rank waited for another one longer than allowed.",
        _PEER + "; where none did, one is much slower than the others",
        "gloo",
    ),
    Signature(
        "StoreGone",
        "CollectiveTimeout",
        r"Failed to recv, got 0 bytes\. Connection was likely closed"
        r"|(?:recvValue|sendBytes)\w{0,20} failed on",
        "Rank 0, whose process holds the common store, is gone.",
        "look at rank 0's pod: it ended first",
        "PyTorch, TCPStore",
        ("Rendezvous",),
    ),
)
