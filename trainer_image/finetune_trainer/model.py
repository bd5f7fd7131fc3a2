"""Loading the prepared model: safetensors only, never code from a repository.

Training and export load from ``<workspace>/model`` through these functions; only prepare sees the
original source.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from finetune_trainer.config import Lora
from finetune_trainer.errors import ModelLoad, first_line
from finetune_trainer.quantization import compute_exactly, loading_options

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

REFUSALS = (
    *(jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError),
    *(ArithmeticError, RecursionError),
)
"""What a chat template may raise over messages that it does not take: it is a program."""


def load_model(
    folder: Path, dtype: torch.dtype, dropout: float | None = None, **options: Any
) -> PreTrainedModel:
    """The causal language model in ``folder`` with weights of type ``dtype``, in train mode off.

    ``dropout`` sets every dropout probability of its configuration, which may have some of its
    own; None leaves them, for work in evaluation mode. ``options`` go to
    ``from_pretrained`` (``attn_implementation``, ``device_map``…). For ZeRO-3 the caller keeps an
    ``HfDeepSpeedConfig`` alive meanwhile. Raises ``ModelLoad``.
    """
    if dropout is not None:
        options |= dropout_options(folder, dropout)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise ModelLoad(
            f"spec.model.uri: the prepared model cannot be loaded: {first_line(error)}"
        ) from error
    assert isinstance(model, PreTrainedModel)  # noqa: S101 - narrows the auto class for mypy
    return model


def load_quantized(
    folder: Path, dtype: torch.dtype, device: torch.device, dropout: float | None = None
) -> PreTrainedModel:
    """The same on ``device`` with its linear layers in 4 bits. Raises ``ModelLoad``."""
    model = load_model(folder, dtype, dropout, **loading_options(dtype, device))
    compute_exactly(model)
    return model


def load_trained(base: Path, trained: Path, adapter: bool) -> PreTrainedModel | PeftModel:
    """The model as training left it, fp32, ready for inference."""
    if not adapter:
        if not (trained / "config.json").exists():
            raise ModelLoad(f"{trained.name} holds no config.json")
        return load_model(trained, torch.float32)
    from peft import PeftModel  # seconds of import that prepare does not need

    # Not trainable, and so already in evaluation mode.
    model: PeftModel = PeftModel.from_pretrained(load_model(base, torch.float32), str(trained))
    return model


def load_as_trained(base: Path, adapter: Path) -> PeftModel:
    """An adapter beside the quantized weights that it was trained beside, computing in fp32."""
    from peft import PeftModel

    quantized = load_quantized(base, torch.float32, torch.device("cpu"))
    model: PeftModel = PeftModel.from_pretrained(quantized, str(adapter))
    return model


def load_tokenizer(folder: Path) -> Tokenizer:
    """The fast tokenizer in ``folder`` with its chat template. Raises ``ModelLoad``."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, use_fast=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelLoad(
            f"spec.model.uri: the tokenizer cannot be loaded: {first_line(error)}"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise ModelLoad(
            "spec.model.uri: the tokenizer has no tokenizer.json, so text offsets are unknown",
            "save the model with a fast tokenizer (tokenizer.json)",
        )
    assert isinstance(tokenizer, Tokenizer)  # noqa: S101 - narrows the auto class for mypy
    return tokenizer


def dropout_options(folder: Path, dropout: float) -> dict[str, float]:
    """Configuration keys of the model that are dropout probabilities, all set to ``dropout``."""
    settings = AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    return {
        key: dropout
        for key, value in settings.items()
        if "drop" in key and isinstance(value, int | float) and not isinstance(value, bool)
    }


def lora_config(lora: Lora) -> LoraConfig:
    """The adapter of a job: rank, scale, dropout and the linear layers it is attached to."""
    from peft import LoraConfig, TaskType  # seconds of import that prepare does not need

    everywhere = lora.target_modules == "AllLinear"
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        target_modules="all-linear" if everywhere else list(lora.target_modules),
    )


def implied_bos(tokenizer: Tokenizer) -> int | None:
    """The BOS id if the tokenizer puts one in front by itself, else None."""
    bos = tokenizer.bos_token_id
    return bos if isinstance(bos, int) and tokenizer.encode("a")[:1] == [bos] else None


def prompt_ids(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> list[int]:
    """The ids that ask for the next assistant turn, as in training: exactly one BOS in front.

    Without a chat template the contents stand alone, each followed by an empty line.
    """
    if tokenizer.chat_template:
        text = str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
    else:
        text = "".join(f"{message['content']}\n\n" for message in messages)
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    bos = implied_bos(tokenizer)
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]
