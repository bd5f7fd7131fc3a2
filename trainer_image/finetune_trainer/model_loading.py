"""How exported weights are loaded, as the model card tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_trainer.config import RunConfig

PLACE = "PATH_OR_REPOSITORY"
"""Stands for wherever the reader has the folder."""
GGUF_FILE = "model.gguf"
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for --max-lora-rank."""


def loading(config: RunConfig, model: Mapping[str, Any], form: str, *, chat: bool) -> list[str]:
    """Markdown for transformers, peft where it is needed, and vLLM, or for llama.cpp and Ollama.
    ``chat``: with a template."""
    if form == "GGUF":
        return _gguf(config, chat=chat)
    ask = _chat() if chat else _complete()
    return _adapter(config, model, ask) if form == "Adapter" else _merged(config, ask)


def _merged(config: RunConfig, ask: list[str]) -> list[str]:
    return [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{PLACE}")',
        f'model = AutoModelForCausalLM.from_pretrained("{PLACE}", dtype="auto")',
        *ask,
        "```",
        "",
        "```sh",
        f"vllm serve {PLACE} --served-model-name {config.job.name}",
        "```",
    ]


def _adapter(config: RunConfig, model: Mapping[str, Any], ask: list[str]) -> list[str]:
    hub, commit = config.model.hub, model.get("commit")
    base = hub.repository if hub and not config.model.file else "PATH_OF_THE_BASE_MODEL"
    revision = f', revision="{commit}"' if hub and commit else ""
    pinned = f" --revision {commit}" if hub and commit else ""
    rank = _served_rank(config.method.lora.rank if config.method.lora else 1)
    return [
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{PLACE}")',
        f'base = AutoModelForCausalLM.from_pretrained("{base}"{revision}, dtype="auto")',
        f'model = PeftModel.from_pretrained(base, "{PLACE}")',
        *ask,
        "```",
        "",
        "```sh",
        f"vllm serve {base}{pinned} --enable-lora --max-lora-rank {rank} \\",
        f"  --lora-modules {config.job.name}={PLACE}",
        "```",
    ]


def _gguf(config: RunConfig, *, chat: bool) -> list[str]:
    """``--jinja`` and Ollama's ``FROM`` take the chat template that the file brings along."""
    wish = "messages" if chat else "prompt"
    said = '[{"role": "user", "content": "Hello"}]' if chat else '"Once upon a time"'
    path = "/v1/chat/completions" if chat else "/v1/completions"
    return [
        "With llama.cpp:",
        "",
        "```sh",
        f"llama-server --model {PLACE}/{GGUF_FILE} --alias {config.job.name} --jinja --port 8080 &",
        f"curl localhost:8080{path} -H 'Content-Type: application/json' \\",
        f"  -d '{{\"{wish}\": {said}}}'",
        "```",
        "",
        "With Ollama:",
        "",
        "```sh",
        f"echo 'FROM {PLACE}/{GGUF_FILE}' > Modelfile",
        f"ollama create {config.job.name} -f Modelfile && ollama run {config.job.name}",
        "```",
        "",
        f"Weights of type {config.output.gguf_type}.",
    ]


def _served_rank(rank: int) -> int:
    return min((size for size in _VLLM_RANKS if size >= rank), default=rank)


def _chat() -> list[str]:
    return [
        'messages = [{"role": "user", "content": "What can you help me with?"}]',
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
        *_generate(),
    ]


def _complete() -> list[str]:
    return ['inputs = tokenizer("Once upon a time", return_tensors="pt")', *_generate()]


def _generate() -> list[str]:
    return [
        "answer = model.generate(**inputs, max_new_tokens=64)",
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:]))',
    ]
