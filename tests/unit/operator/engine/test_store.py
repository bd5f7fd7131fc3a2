"""The store: newest version wins, deletions are final, lost events are found by a full list."""

from __future__ import annotations

from dataclasses import dataclass, field

from finetune_operator.engine.evidence import Evidence
from finetune_operator.engine.store import REMEMBERED_DELETIONS, Key, Store

KEY = Key("team-a", "demo")


@dataclass(frozen=True)
class Thing:
    name: str
    uid: str
    version: int = field(compare=False)
    content: str = ""
    key: Key = KEY


def test_an_older_version_never_replaces_a_newer_one() -> None:
    store = Store[Thing]()
    assert store.put(Thing("a", "u1", 5, "new"))
    assert not store.put(Thing("a", "u1", 4, "old"))
    assert not store.put(Thing("a", "u1", 5, "echo"))
    assert store.get(KEY, "a") == Thing("a", "u1", 5, "new")


def test_a_newer_version_that_looks_the_same_is_kept_but_is_no_news() -> None:
    store = Store[Thing]()
    store.put(Thing("a", "u1", 5, "same"))
    assert not store.put(Thing("a", "u1", 6, "same"))
    known = store.get(KEY, "a")
    assert known is not None and known.version == 6


def test_a_deleted_object_does_not_come_back_by_a_late_answer() -> None:
    store = Store[Thing]()
    store.put(Thing("a", "u1", 5))
    assert store.remove(Thing("a", "u1", 6))
    assert not store.put(Thing("a", "u1", 7))
    assert store.of(KEY) == ()


def test_the_deletion_of_a_predecessor_leaves_its_successor_alone() -> None:
    store = Store[Thing]()
    store.put(Thing("a", "u2", 9))
    assert not store.remove(Thing("a", "u1", 8))
    assert len(store) == 1


def test_a_full_list_finds_ghosts_and_what_was_missed() -> None:
    store = Store[Thing]()
    other = Key("team-a", "other")
    store.put(Thing("ghost", "u1", 3))
    store.put(Thing("same", "u2", 4, key=other))
    store.put(Thing("made-after-the-list", "u3", 50, key=other))
    changed = store.synchronise([Thing("same", "u2", 4, key=other), Thing("new", "u4", 6)], 10)
    assert changed == {KEY}
    assert {item.name for item in store} == {"same", "made-after-the-list", "new"}
    assert len(store) == 3


def test_remembered_deletions_are_bounded() -> None:
    store = Store[Thing]()
    for number in range(REMEMBERED_DELETIONS + 10):
        store.remove(Thing("a", f"u{number}", 1))
    assert store.put(Thing("a", "u0", 2)), "the oldest deletion is forgotten"


def test_evidence_keeps_the_first_names_of_an_owner_and_the_newest_owners() -> None:
    evidence = Evidence[str](owners=2, per_owner=2)
    for owner in ("a", "b", "c"):
        for name in ("p0", "p1", "p2"):
            evidence.add(owner, name, f"{owner}-{name}", 1)
    assert evidence.of("a") == ()
    assert evidence.of("c") == ("c-p0", "c-p1")
    evidence.add("c", "p0", "later word", 3)
    evidence.add("c", "p0", "an older word that was read from a slow page", 2)
    assert evidence.of("c")[0] == "later word"
    evidence.forget("c")
    assert len(evidence) == 2


def test_evidence_of_large_gangs_is_bounded_by_all_that_is_kept() -> None:
    evidence = Evidence[int](owners=9, per_owner=3, records=4)
    for owner in ("a", "b", "c"):
        for number in range(5):
            evidence.add(owner, f"p{number}", number, 1)
    assert (evidence.of("a"), evidence.of("b"), evidence.of("c")) == ((), (), (0, 1, 2))
    assert len(evidence) == 3
    alone = Evidence[int](per_owner=9, records=2)
    for number in range(5):
        alone.add("a", f"p{number}", number, 1)
    assert alone.of("a") == (0, 1, 2, 3, 4), "one gang is never torn apart"
