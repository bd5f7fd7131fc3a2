"""Architectures that cannot keep the samples of a packed row apart, told from their structure.

The self-test of training asks the loaded model the same; here it costs no GPU.
"""

from __future__ import annotations

import inspect
from typing import Any

_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
_RECURRENT = ("mamba", "rwkv", "deltanet", "rglru", "shortconv", "lightningattention")
"""Parts of the names of such layers."""


def mixes_samples(model: Any) -> str | None:
    """Why packed samples would see each other in this causal language model; None: they do not.

    Isolation rests on ``position_ids`` that start again: attention masks are made from them, the
    state of a recurrent layer and a bias by distance are not.
    """
    config = model.config.get_text_config()
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return "it takes no position ids"
    if getattr(config, "alibi", False):
        return "its attention counts distances over the whole row (ALiBi)"
    kinds = {kind for kind in getattr(config, "layer_types", None) or () if kind not in _ATTENTION}
    kinds |= {
        type(module).__name__
        for module in model.modules()
        if any(sign in type(module).__name__.lower() for sign in _RECURRENT)
    }
    return f"it has recurrent layers ({', '.join(sorted(kinds))})" if kinds else None
