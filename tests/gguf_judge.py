"""llama.cpp itself, in this process, as the judge of GGUF files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import xllamacpp


@dataclass(frozen=True)
class LlamaCpp:
    """A loaded file."""

    server: Any

    def log_probabilities(self, ids: list[int], count: int) -> list[float]:
        """Of each of ``count`` tokens to follow ``ids``."""
        told = self.server.handle_completions(
            {
                "prompt": ids,
                "n_predict": 1,
                "n_probs": count,
                "temperature": 0,
                "ignore_eos": True,  # else an end as the answer comes without its numbers
                "cache_prompt": False,
            }
        )
        top = told["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found = {each["id"]: each["logprob"] for each in top}
        return [found[token] for token in range(count)]

    def answer(self, question: str, tokens: int) -> str:
        """The likeliest one, by the chat template of the file; it ends where the file says so."""
        message = {"role": "user", "content": question}
        wish = {"messages": [message], "max_tokens": tokens, "temperature": 0}
        told = self.server.handle_chat_completions(wish)
        return str(told["choices"][0]["message"]["content"])

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """``special``: with the tokens that the file's tokenizer adds."""
        wish = {"content": text, "add_special": special, "parse_special": True}
        return list(self._post("/tokenize", wish)["tokens"])

    def prompt(self, messages: list[dict[str, str]]) -> str:
        """By the chat template of the file."""
        return str(self._post("/apply-template", {"messages": messages})["prompt"])

    def _post(self, path: str, content: Any) -> Any:
        request = Request(
            self.server.listening_address + path,
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urlopen(request, timeout=60) as answer:
            return json.load(answer)


@contextmanager
def llama_cpp(file: Path, context: int = 512) -> Iterator[LlamaCpp]:
    """With fp32 keys and values, on one thread."""
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.n_gpu_layers = context, 1, 0
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup, params.fit_params, params.verbosity = False, False, -1
    params.endpoint_metrics = True
    server = xllamacpp.Server(params)
    # Only its loop answers this. A server told to end before its loop has begun forgets it, and
    # waits for its own end for ever with the interpreter's lock held: no thread of Python goes on.
    server.handle_metrics()
    yield LlamaCpp(server)
