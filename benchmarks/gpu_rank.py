"""The rank of a training run with some of its faster forms switched off: ``WITHOUT=fused,head``.

Started by `benchmarks.gpu` in place of ``python -m finetune_trainer.rank``. Besides, it writes the
peak of the GPU's memory into ``GPU_MEMORY``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_trainer import fast, rank


def main() -> None:
    off = [name for name in os.environ.get("WITHOUT", "").split(",") if name]
    plain = fast.accelerate

    def accelerate(model: Any, **settings: Any) -> bool:
        for name in off:
            FORMS[name]()
        return plain(model, **settings)

    fast.accelerate = accelerate
    finish = rank.Rank.finish

    def told(self: rank.Rank, result: dict[str, Any]) -> None:
        import torch

        peaks = {
            "allocated": torch.cuda.max_memory_allocated(),
            "reserved": torch.cuda.max_memory_reserved(),
            "used": torch.cuda.mem_get_info()[1] - torch.cuda.mem_get_info()[0],
        }
        Path(os.environ["GPU_MEMORY"]).write_text(json.dumps(peaks))
        finish(self, result)

    rank.Rank.finish = told  # type: ignore[method-assign]
    rank.main()


def _no_varlen() -> None:
    from finetune_trainer.fast import attention

    attention.attach = lambda *_, **__: False


def _no_fused() -> None:
    from finetune_trainer.fast import fused

    fused.attach = lambda *_: 0


def _no_lora() -> None:
    from finetune_trainer.fast import lora

    lora.attach = lambda *_: 0


def _no_head() -> None:
    from finetune_trainer.fast import head

    head.PROVED.clear()


def _no_softmax() -> None:
    from finetune_trainer.fast import softmax

    softmax.in_one_kernel = lambda tensor: False


FORMS: dict[str, Callable[[], None]] = {
    "varlen": _no_varlen,
    "fused": _no_fused,
    "lora": _no_lora,
    "head": _no_head,
    "softmax": _no_softmax,
}


if __name__ == "__main__":
    main()
