"""Attention of packed rows sample by sample, instead of under a mask of the whole row.

A mask [T, T] that keeps samples apart costs attention over the square of the row, most of it for
pairs that do not count. Here each sample attends by itself, with the kernel's own causal order. On
a GPU one kernel does so for all samples of a micro-batch (`varlen`).

Needs an architecture of `PROVED`, which computes attention with transformers' ``sdpa`` and hands
the mask on as it is. Batches that are not packed, and generation, take that path unchanged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

NAME = "sdpa_by_sample"
ON_GPU = "varlen_by_sample"
PROVED = {
    *("gemma", "gemma3_text", "llama", "mistral", "olmo", "olmo2"),
    *("phi", "phi3", "qwen2", "qwen3", "smollm3"),
}
"""Model types whose losses and gradients were compared with ``sdpa``'s: tests/architectures."""

_Mask = torch.Tensor | None


@dataclass(frozen=True)
class Blocks:
    """Stands where a mask would: the stretches of tokens that attend to each other."""

    rows: tuple[tuple[tuple[int, _Mask], ...], ...]
    """For each row its stretches in order: tokens L, and the mask [L, L] where causal order is not
    all (a sliding window shorter than the sample)."""
    dense: Callable[[], _Mask]
    """The mask that it stands for."""
    ends: torch.Tensor
    """int32 [S + 1], on the device: where the stretches begin and end, counted through all rows."""

    @cached_property  # each layer asks
    def longest(self) -> int:
        """Tokens of the longest stretch."""
        return max(size for row in self.rows for size, _ in row)

    @cached_property
    def causal(self) -> bool:
        """Causal order is all in every stretch."""
        return all(mask is None for row in self.rows for _, mask in row)


def attach(model: Any, *, on_gpu: bool = False) -> bool:
    """Switch the model to it. Returns False, and leaves it alone, where it does not fit."""
    config = model.config
    if config.model_type not in PROVED or config._attn_implementation != "sdpa":
        return False
    name = ON_GPU if on_gpu else NAME
    AttentionInterface.register(name, all_samples if on_gpu else by_sample)
    AttentionMaskInterface.register(name, blocks)
    model.set_attn_implementation(name)
    return True


def blocks(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: _Mask = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **rest: Any,
) -> Blocks | _Mask:
    """What transformers asks for in place of ``sdpa_mask``, with the same arguments.

    ``mask_function`` tells of any two tokens whether the first sees the second. Of packed rows it
    is causal order within a sample, perhaps within a window or chunk of it too: so where a token
    does not see the one before it, none behind sees across; and a stretch whose last token sees its
    first is causal throughout.
    """
    dense = partial(
        sdpa_mask,
        batch_size,
        q_length,
        kv_length,
        mask_function=mask_function,
        attention_mask=attention_mask,
        allow_is_causal_skip=allow_is_causal_skip,
        use_vmap=use_vmap,
        device=device,
        **rest,
    )
    # Packed rows are what forbids to leave the mask out; they come without padding and cache.
    if allow_is_causal_skip or attention_mask is not None or use_vmap or q_length != kv_length:
        return dense()

    def seen(row: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = mask_function(row, torch.zeros_like(row), query, key)
        return found

    later = torch.arange(1, q_length, device=device)
    numbers = torch.arange(batch_size, device=device)[:, None]
    cut = ~seen(numbers, later[None], later[None] - 1).expand(batch_size, q_length - 1)
    rows = []
    for number, cuts in enumerate(cut.cpu()):
        edges = [0, *(cuts.nonzero().flatten() + 1).tolist(), q_length]
        first = torch.tensor(edges[:-1], device=device)
        last = torch.tensor(edges[1:], device=device) - 1
        row = torch.full_like(first, number)
        causal = seen(row, last, first).tolist()
        stretches = []
        for (begin, end), whole in zip(itertools.pairwise(edges), causal, strict=True):
            inside = torch.arange(begin, end, device=device)
            mask = None if whole else seen(row[:1, None], inside[:, None], inside[None])
            stretches.append((end - begin, mask))
        rows.append(tuple(stretches))
    sizes = [0, *(size for row in rows for size, _ in row)]
    ends = torch.tensor(list(itertools.accumulate(sizes)), dtype=torch.int32).to(device)
    return Blocks(tuple(rows), dense, ends)


def by_sample(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Blocks | _Mask,
    dropout: float = 0.0,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Query [B, H, T, d], key and value [B, H or fewer, T, d]; returns [B, T, H, d] and None."""
    if not isinstance(attention_mask, Blocks):
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **rest
        )
        return plain
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    mixed = []
    for number, row in enumerate(attention_mask.rows):
        sizes = [size for size, _ in row]
        # One split has one backward pass; each slice would have one over the whole row.
        of_row = (torch.split(each[number : number + 1], sizes, 2) for each in (query, key, value))
        pieces = [
            functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
            ).transpose(1, 2)
            for (_, mask), q, k, v in zip(row, *of_row, strict=True)
        ]
        mixed.append(torch.cat(pieces, dim=1))
    return (mixed[0] if len(mixed) == 1 else torch.cat(mixed)), None


def all_samples(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Blocks | _Mask,
    dropout: float = 0.0,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """As `by_sample`, in one kernel where there is one: 16 bits, no dropout, no window."""
    if (
        isinstance(attention_mask, Blocks)
        and query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and not dropout
        and attention_mask.causal
    ):
        from finetune_trainer.fast import varlen

        return varlen.attend(query, key, value, attention_mask, scaling), None
    return by_sample(module, query, key, value, attention_mask, dropout, scaling, **rest)
