"""NEFTune: noise on the input embeddings while training (Jain et al., arXiv:2310.05914, section 2).

Each number of a token's embedding gets uniform noise of at most alpha / √(L d): L tokens of its
sample, hidden size d. So the noise of a whole sample has the expected size alpha / √3, however long
it is. In a packed row L is therefore the length of the token's own sample and not of the row, as if
the sample stood alone; padding counts for nobody.
"""

from __future__ import annotations

from typing import Any

import torch


def attach(model: Any, alpha: float) -> None:
    """Add the noise in train mode, in every forward pass that is told ``position_ids``.

    ``model`` is the one that will be called: hooks of models inside adapters are passed by. The
    noise comes from torch's global generator, like dropout: the loop seeds it for each step, so
    that a resumed run draws what the other drew.
    """
    positions: list[torch.Tensor | None] = [None]

    def watch(_module: Any, _arguments: Any, inputs: dict[str, Any]) -> None:
        positions[0] = inputs.get("position_ids")

    def disturb(module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        if not module.training or positions[0] is None:
            return None
        return output + noise(output, positions[0], alpha)

    model.register_forward_pre_hook(watch, with_kwargs=True)
    model.get_input_embeddings().register_forward_hook(disturb)


def noise(embedded: torch.Tensor, position_ids: torch.Tensor, alpha: float) -> torch.Tensor:
    """Noise for embeddings [B, T, d] of samples whose positions [B, T] begin at 0."""
    drawn = torch.empty_like(embedded, dtype=torch.float32).uniform_(-1, 1)
    sizes = sample_lengths(position_ids) * embedded.shape[-1]
    return (drawn * (alpha / sizes.sqrt())[..., None]).to(embedded.dtype)


def sample_lengths(position_ids: torch.Tensor) -> torch.Tensor:
    """float32 [B, T]: tokens of the sample that each token belongs to."""
    begins = position_ids == 0
    begins[:, 0] = True
    sample = begins.flatten().cumsum(0) - 1
    return torch.bincount(sample)[sample].view(position_ids.shape).float()
