"""The kernel of the loss on GPUs computes what torch does: run by Triton's interpreter, on a CPU.

That it does so compiled is looked at on a GPU: tests/gpu/test_forms.py.
"""

from __future__ import annotations

import os
import subprocess
import sys

import torch

from finetune_trainer.fast.softmax import in_one_kernel

COMPARE = """
import torch
from torch.nn import functional
from finetune_trainer.fast.softmax import losses_in_place

for dtype, close in ((torch.float32, 2e-6), (torch.float16, 1e-3)):
    torch.manual_seed(0)
    logits = (4 * torch.randn(6, 40_000)).to(dtype)  # more than a block of the kernel
    targets = torch.tensor([0, 39_999, 7, 32_767, 32_768, 500])
    logits[2, 7] = 60  # certain
    exact = logits.float().requires_grad_()
    losses = functional.cross_entropy(exact, targets, reduction="none")
    losses.sum().backward()
    found = losses_in_place(logits, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, losses.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits.float(), exact.grad, rtol=close, atol=1e-6)
"""


def test_losses_and_gradients_are_those_of_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPARE],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_cpu_has_no_kernel() -> None:
    assert not in_one_kernel(torch.zeros(1))
