"""Questions that come up together are asked together, and none is answered from before it."""

from __future__ import annotations

import asyncio

import pytest

from finetune_operator.engine.together import Together


class Answers:
    """Answers each key with the number of the call; every call waits until it is let go."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, keys: tuple[str, ...]) -> dict[str, int]:
        self.calls.append(keys)
        number = len(self.calls)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return dict.fromkeys(keys, number)


async def test_what_is_asked_during_a_call_goes_with_the_next_one() -> None:
    answers = Answers()
    together = Together(answers, at_most=10)
    first = asyncio.create_task(together.ask("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    later = [asyncio.create_task(together.ask(key)) for key in ("b", "c", "a", "b")]
    await asyncio.sleep(0)
    assert answers.calls == [("a",)]
    answers.gate.set()
    assert await first == 1
    # The second question for "a" came after the first call had begun: that answer may be too old.
    assert await asyncio.gather(*later) == [2, 2, 2, 2]
    assert answers.calls == [("a",), ("b", "c", "a")]


async def test_a_call_has_at_most_so_many_keys() -> None:
    answers = Answers()
    answers.gate.set()
    together = Together(answers, at_most=2)
    assert await asyncio.gather(*map(together.ask, "abcde")) == [1, 1, 2, 2, 3]


async def test_a_failed_call_fails_for_its_keys_only_and_the_next_one_works() -> None:
    answers = Answers()
    answers.gate.set()
    answers.error = OSError("no answer")
    together = Together(answers, at_most=10)
    results = await asyncio.gather(*map(together.ask, "ab"), return_exceptions=True)
    assert [type(result) for result in results] == [OSError, OSError]
    answers.error = None
    assert await together.ask("a") == 2


async def test_one_that_gives_up_takes_nothing_from_the_others() -> None:
    answers = Answers()
    together = Together(answers, at_most=10)
    impatient = asyncio.create_task(together.ask("a"))
    patient = asyncio.create_task(together.ask("a"))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    answers.gate.set()
    assert await asyncio.wait_for(patient, 1) == 1
    assert await asyncio.wait_for(together.ask("b"), 1) == 2
