"""Greedy answers of all ranks together, in batches, whatever the ZeRO stage.

Every forward pass goes through the engine, because ZeRO 3 gathers weights from its root on, and
under ZeRO 3 all ranks make the same number of passes. A prompt is padded on the left; padding is
masked and has no position, so what stands beside it changes no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from finetune_trainer.engine import Engine
from finetune_trainer.errors import StageError
from finetune_trainer.gang import Gang

MAX_BATCH = 64
"""Prompts at a time."""

Ids = Sequence[int]


@dataclass(frozen=True)
class Decoding:
    """How answers are made; fixed for a job, so that scores can be compared."""

    stops: frozenset[int]
    """Tokens that end an answer; they are not part of it."""
    pad: int
    max_new_tokens: int
    batch_tokens: int
    """Prompts and answers of a batch have at most so many tokens: those of a micro-batch, whose
    memory training has needed anyway."""


@dataclass(frozen=True)
class Answer:
    ids: tuple[int, ...]
    cut: bool
    """It was not over after ``max_new_tokens``."""


@dataclass(frozen=True)
class Signals:
    """What is asked and told meanwhile; see ``evaluate``."""

    on_pass: Callable[[], None] = lambda: None
    stop: Callable[[], bool] = lambda: False
    vote: Callable[[], float] = lambda: 0.0
    voted: Callable[[float], None] = lambda votes: None


def decode(
    engine: Engine,
    gang: Gang,
    prompts: Sequence[Ids],
    how: Decoding,
    *,
    logits_to_keep: bool,
    signals: Signals,
) -> list[Answer] | None:
    """An answer to each prompt, in their order, on all ranks. Collective.

    Returns None when the ranks were asked to stop. Draws no random number.
    """
    mine: list[tuple[int, Answer]] = []
    greedy = _Greedy(engine, gang, how, logits_to_keep, signals)
    engine.eval()
    try:
        with torch.no_grad():
            for batch in batches(prompts, how, gang.place.world_size):
                share = batch[gang.place.rank :: gang.place.world_size]
                # A rank without a prompt takes part all the same, with one whose answer is dropped.
                answers = greedy([prompts[index] for index in share or batch[:1]])
                mine += zip(share, answers, strict=False)
                stopped, votes = gang.sums(float(signals.stop()), signals.vote())
                signals.voted(votes)
                if stopped:
                    return None
    finally:
        engine.train()
    found = dict(pair for share in gang.gather(mine) for pair in share)
    return [found[index] for index in range(len(prompts))]


def batches(prompts: Sequence[Ids], how: Decoding, world_size: int) -> Iterator[list[int]]:
    """Prompts by number, from long to short, in batches of all ranks: lengths differ little in each
    of them, so that little is computed for padding."""
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    at = 0
    while at < len(order):
        longest = len(prompts[order[at]]) + how.max_new_tokens
        size = min(MAX_BATCH, max(1, how.batch_tokens // longest)) * world_size
        yield order[at : at + size]
        at += size


@dataclass
class _Greedy:
    engine: Engine
    gang: Gang
    how: Decoding
    logits_to_keep: bool
    signals: Signals

    def __call__(self, prompts: Sequence[Ids]) -> list[Answer]:
        ids, mask = (part.to(self.engine.device) for part in padded(prompts, self.how.pad))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        over = torch.zeros(len(prompts), dtype=torch.bool, device=ids.device)
        stops = torch.tensor(sorted(self.how.stops), dtype=torch.long, device=ids.device)
        extra = {"logits_to_keep": 1} if self.logits_to_keep else {}
        tokens: list[torch.Tensor] = []
        cache = None
        while True:
            output = self.engine(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                **extra,
            )
            cache = output.past_key_values
            if cache is None:
                raise StageError("this architecture keeps no cache, so it cannot generate here")
            token = output.logits[:, -1].float().argmax(-1)
            tokens.append(token)
            over |= torch.isin(token, stops)
            self.signals.on_pass()
            if len(tokens) == self.how.max_new_tokens or self._enough(bool(over.all())):
                break
            ids, positions = token[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        return [self._answer(row) for row in torch.stack(tokens, 1).tolist()]

    def _enough(self, over: bool) -> bool:
        """Whether to end the batch. Under ZeRO 3 the ranks have to agree on each pass."""
        over = over or self.signals.stop()
        if self.engine.stage != 3:
            return over
        (done,) = self.gang.sums(float(over))
        return done == self.gang.place.world_size

    def _answer(self, tokens: list[int]) -> Answer:
        end = next((at for at, token in enumerate(tokens) if token in self.how.stops), None)
        return Answer(tuple(tokens[:end]), cut=end is None)


def padded(prompts: Sequence[Ids], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 [B, T] ids and mask (1: not padding); prompts stand at the right end."""
    width = max(map(len, prompts))
    ids = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)
