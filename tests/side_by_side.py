"""Tests of a module that wait most of their time do it at the same time, in threads.

All that bear the mark ``side_by_side`` begin with the first of them; each is judged, with its own
traceback, when its turn comes. They share the fixtures of that first one, so what is theirs alone
they name themselves: the mark is for tests that do not disturb one another.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

MOST_AT_ONCE = 8
Runs = dict[pytest.Item, "Future[None]"]
_RUNS = pytest.StashKey[Runs]()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not pyfuncitem.get_closest_marker("side_by_side"):
        return None
    runs = pyfuncitem.session.stash.setdefault(_RUNS, {})
    if pyfuncitem not in runs:
        runs |= _begin(list(_companions(pyfuncitem)), pyfuncitem._request)
    runs[pyfuncitem].result()
    return True


def _companions(first: pytest.Function) -> Iterator[pytest.Function]:
    for item in first.session.items:
        marked = isinstance(item, pytest.Function) and item.get_closest_marker("side_by_side")
        if marked and item.path == first.path and not item.get_closest_marker("skip"):
            yield item


def _begin(items: list[pytest.Function], request: pytest.FixtureRequest) -> Runs:
    pool = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="side-by-side")
    runs: Runs = {}
    for item in items:
        given = item.callspec.params if hasattr(item, "callspec") else {}
        names = item._fixtureinfo.argnames
        values = {n: given[n] if n in given else request.getfixturevalue(n) for n in names}
        runs[item] = pool.submit(item.obj, **values)
    pool.shutdown(wait=False)
    return runs
