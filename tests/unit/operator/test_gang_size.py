"""How many workers may share a global batch, and how many do."""

from __future__ import annotations

from typing import Any

import pytest
from builders import KEY, PLATFORM, UID, make_plan, make_spec, status_in
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.types import Resize, Resolved, StageName
from finetune_operator.errors import InvalidSpec
from finetune_operator.gang_size import fitting_sizes, misfits, present_workers
from finetune_operator.objects.claim import build_claim
from finetune_operator.plan import parse_spec, plan_training


def spec(count: int, micro: int | None = None, ranks: int = 1, **elastic: Any) -> Any:
    """No global batch is given: the types look at one and refuse what does not fit."""
    wish = make_spec(
        workers={"count": count, "ranksPerWorker": ranks},
        recovery={"elastic": elastic} if elastic else {},
    )
    wish["training"] = {"steps": 9, **({"microBatchSize": micro} if micro else {})}
    return parse_spec(wish)


@pytest.mark.parametrize(
    ("wish", "sizes"),
    [
        pytest.param(spec(4, min=1), (1, 2, 3, 4), id="all that divide 48"),
        pytest.param(spec(8, min=3), (3, 4, 6, 8), id="five and seven do not"),
        pytest.param(spec(4, min=2, max=16), (2, 3, 4, 6, 8, 12, 16), id="more than wanted"),
        pytest.param(spec(4, micro=4, min=1), (1, 2, 3, 4), id="with a micro-batch of four"),
        pytest.param(spec(4, micro=8, min=1), (1, 2, 3), id="with one of eight"),
        pytest.param(spec(4, ranks=8, min=1), (1, 2, 3), id="with eight ranks each"),
        pytest.param(spec(4), (4,), id="a rigid gang"),
        pytest.param(spec(5), (), id="none that divides it"),
    ],
)
def test_sizes_that_share_a_batch_of_48(wish: Any, sizes: tuple[int, ...]) -> None:
    assert fitting_sizes(wish, 48) == sizes


@given(
    total=st.integers(1, 4096),
    count=st.integers(1, 64),
    low=st.integers(1, 64),
    more=st.integers(0, 64),
    ranks=st.integers(1, 8),
    micro=st.none() | st.integers(1, 8),
)
def test_a_size_is_within_its_bounds_and_divides_the_batch(
    total: int, count: int, low: int, more: int, ranks: int, micro: int | None
) -> None:
    wish = spec(count, micro, ranks, min=min(low, count), max=count + more)
    sizes = fitting_sizes(wish, total)
    assert list(sizes) == sorted(set(sizes))
    assert all(min(low, count) <= size <= count + more for size in sizes)
    assert all(total % ((micro or 1) * size * ranks) == 0 for size in sizes)
    fields = {fault.field for fault in misfits(wish, total)}
    for name, bound in (("min", min(low, count)), ("max", count + more)):
        assert (f"spec.recovery.elastic.{name}" in fields) == (bound not in sizes)


@pytest.mark.parametrize(
    ("count", "last", "present"),
    [
        pytest.param(4, None, 4, id="no resize"),
        pytest.param(4, Resize(workers=3, wanted=4), 3, id="the last one counts"),
        pytest.param(6, Resize(workers=3, wanted=4), 6, id="unless the wish changed since"),
        pytest.param(4, Resize(workers=5, wanted=4), 4, id="or somebody spoilt the status"),
        pytest.param(4, Resize(wanted=4), 4, id="or a part of it is missing"),
    ],
)
def test_the_present_size(count: int, last: Resize | None, present: int) -> None:
    resolved = Resolved(resizes=(Resize(workers=1, wanted=count), last)) if last else None
    assert present_workers(spec(count, min=1), resolved, 48) == present


def test_a_new_job_whose_bounds_cannot_share_its_batch_is_refused_with_the_field() -> None:
    wish = spec(3, micro=1, min=3, max=13).wire()
    with pytest.raises(InvalidSpec) as caught:
        make_plan(wish)
    (fault,) = caught.value.faults
    assert (fault.field, fault.reason) == ("spec.recovery.elastic.max", "BatchDoesNotFit")
    assert "13 workers cannot share the global batch of 18: use one of 1, 2, 3, 6, 9, or" in str(
        fault
    )

    begun = status_in(StageName.TRAIN, resolved=Resolved(global_batch_size=18))
    plan = plan_training(KEY, UID, wish, begun, PLATFORM, {})
    assert plan.remarks == (fault,), "a job that has begun goes on"
    assert plan.sizes == (3, 6, 9)


def test_a_claim_is_shared_if_the_gang_may_grow() -> None:
    wish = make_spec(
        workers={"count": 1},
        recovery={"elastic": {"min": 1, "max": 2}},
        storage={"size": "1Gi", "claimRef": None},
        output={"uri": "pvc://results/x"},
    )
    claim = build_claim(make_plan(wish))
    assert claim and claim["spec"]["accessModes"] == ["ReadWriteMany"]
