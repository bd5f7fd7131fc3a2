"""The rules that compare rows: what falls under them, what does not, and what the policies do."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.trainer.prepare.cleaned import clean_data, clean_rows, source

from finetune_trainer.config import Cleaning, Data
from finetune_trainer.errors import BadData, StageError, failure_class
from finetune_trainer.prepare.cleaning.near import likeness, plain
from finetune_trainer.prepare.cleaning.rejects import Account, Ledger
from finetune_trainer.prepare.cleaning.rules import MEANINGS
from finetune_trainer.prepare.splits import locate_sides, read_sides

WORDS = ("gang", "set", "pods", "start", "together", "or", "not", "at", "all", "share", "claim")


def pair(question: str, answer: str = "That.", **more: Any) -> dict[str, Any]:
    return {"prompt": question, "response": answer, **more}


def prose(seed: int, words: int = 40) -> str:
    """Text that is like no other text."""
    rng = random.Random(seed)
    return " ".join(f"{rng.choice(WORDS)}{rng.randint(0, 999)}" for _ in range(words))


def pairs(count: int) -> list[dict[str, Any]]:
    return [pair(prose(n, 12), prose(n + 10_000, 12)) for n in range(count)]


def test_of_equal_rows_the_first_stays(tmp_path: Path) -> None:
    rows = [pair("What?"), pair("Who?"), pair(" What?\n"), pair("What?", "This."), pair("What?")]
    cleaned = clean_rows(tmp_path, rows)
    assert cleaned.lines("exactDuplicates") == [3, 5]
    assert cleaned.answers() == ["That.", "That.", "This."]
    assert cleaned.rejects[0]["reason"] == "the same as train.jsonl line 1"
    assert "What?" in cleaned.rejects[0]["excerpt"]


def test_duplicates_are_found_across_sources_and_counted_where_they_are_dropped(
    tmp_path: Path,
) -> None:
    sources = [
        source(tmp_path, "one", [pair("What?"), pair("Who?")]),
        source(tmp_path, "two", [pair("Who?"), pair("Where?")], number=1),
    ]
    data = Data.model_validate({"train": sources, "sequenceLength": 64, "evalFraction": 0})
    cleaned = clean_data(tmp_path, data)
    assert [account.dropped for account in cleaned.accounts] == [{}, {"exactDuplicates": 1}]
    assert len(cleaned.train) == 3


def test_an_id_that_comes_twice_with_other_content_is_reported(tmp_path: Path) -> None:
    rows = [pair("What?", id=1), pair("Who?", id=1), pair("Where?", id=2), pair("When?")]
    cleaned = clean_rows(tmp_path, rows)
    assert cleaned.lines("duplicateIds") == [2]
    assert cleaned.rejects[0]["action"] == "reported"
    assert len(cleaned.train) == 4


def test_a_row_far_longer_than_the_others_is_an_outlier_of_length(tmp_path: Path) -> None:
    rows = [*pairs(120), pair(prose(500, 400), prose(501, 400))]
    cleaned = clean_rows(tmp_path, rows)
    assert cleaned.lines("lengthOutliers") == [121]
    assert "; the middle row of the source has " in cleaned.rejects[0]["reason"]


def test_an_answer_far_shorter_for_its_prompt_is_an_outlier_of_ratio(tmp_path: Path) -> None:
    rows = [*pairs(120), pair(prose(500, 20), "No.")]
    cleaned = clean_rows(tmp_path, rows)
    assert cleaned.lines("ratioOutliers") == [121]
    assert cleaned.lines("lengthOutliers") == []


def test_among_few_rows_nothing_is_an_outlier(tmp_path: Path) -> None:
    rows = [*pairs(90), pair(prose(500, 400), prose(501, 400))]
    assert clean_rows(tmp_path, rows).rejects == []


def almost(text: str) -> str:
    words = text.split()
    return " ".join([*words[:-1], "end"])


def test_of_rows_that_are_almost_the_same_all_but_the_first_are_reported(tmp_path: Path) -> None:
    rows = [pair("What?", prose(n)) for n in range(30)]
    rows += [pair("What?", almost(prose(3))), pair("What?", prose(3).upper())]
    cleaned = clean_rows(tmp_path, rows)
    assert cleaned.lines("nearDuplicates") == [31, 32]
    assert "% like train.jsonl line 4" in cleaned.rejects[0]["reason"]
    assert len(cleaned.train) == 32


def test_a_shared_system_prompt_makes_no_near_duplicates(tmp_path: Path) -> None:
    rows = [pair(f"What is {prose(n, 3)}?", system=prose(1, 80)) for n in range(30)]
    assert clean_rows(tmp_path, rows).rejects == []


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.85, 0.95])
def test_no_more_than_5_percent_of_the_near_duplicates_are_overlooked(
    tmp_path: Path, similarity: float
) -> None:
    texts = [prose(n, 60) for n in range(400)]
    rng = random.Random(5)
    twins = []
    for text in texts:
        words = text.split()
        for place in rng.sample(range(60), rng.choice((1, 1, 1, 2, 3, 5, 8, 12, 20))):
            words[place] = "x"
        twins.append(" ".join(words))
    shares = [likeness(plain(a), plain(b)) for a, b in zip(texts, twins, strict=True)]
    alike = {400 + n + 1 for n, share in enumerate(shares) if share >= similarity}
    rows = [{"text": text} for text in texts + twins]
    cleaned = clean_rows(
        tmp_path, rows, cleaning={"nearDuplicates": {"similarity": similarity, "policy": "Report"}}
    )
    found = set(cleaned.lines("nearDuplicates"))
    assert len(alike) > 20
    assert found <= alike
    assert len(alike - found) <= 0.05 * len(alike)


def test_rows_of_one_group_are_meant_to_be_alike(tmp_path: Path) -> None:
    rows = [
        pair("What?", prose(1), fact="a"),
        pair("What?", almost(prose(1)), fact="a"),
        pair("What?", prose(2), fact="a"),
        pair("What?", almost(prose(2)), fact="b"),
    ]
    fields = {"prompt": "prompt", "response": "response", "group": "fact"}
    assert clean_rows(tmp_path, rows, fields=fields).lines("nearDuplicates") == [4]


def test_a_group_is_held_out_as_a_whole(tmp_path: Path) -> None:
    rows = [pair(prose(n), fact=n % 40) for n in range(400)]
    fields = {"prompt": "prompt", "response": "response", "group": "fact"}
    cleaned = clean_rows(tmp_path, rows, fields=fields, evalFraction=0.3)
    train = {sample["group"] for sample in cleaned.train}
    held = {sample["group"] for sample in cleaned.held}
    assert (len(train) + len(held), train & held) == (40, set())
    assert len(cleaned.train) + len(cleaned.held) == 400


HELD = [pair("What?", prose(1)), pair("What?", prose(2)), pair("What?", prose(3))]


def test_rows_that_are_trained_and_tested_on_are_reported(tmp_path: Path) -> None:
    rows = [pair("What?", prose(n)) for n in range(50, 80)] + [HELD[0]]
    rows += [pair("What?", almost(prose(2)))]
    cleaned = clean_rows(tmp_path, rows, HELD, expect={"maxLeakedFraction": 1})
    assert cleaned.lines("evalLeakage") == [31, 32]
    assert cleaned.rejects[0]["reason"] == "the same as eval.jsonl line 1"
    assert "% like eval.jsonl line 2" in cleaned.rejects[1]["reason"]
    assert cleaned.leaked == 2
    assert len(cleaned.train) == 32


def test_dropped_leaks_leave_the_held_out_rows_as_they_are(tmp_path: Path) -> None:
    rows = [pair("What?", prose(50)), *HELD]
    cleaned = clean_rows(tmp_path, rows, HELD, cleaning={"evalLeakage": "Drop"})
    assert cleaned.answers() == [prose(50)]
    assert len(cleaned.held) == 3
    assert cleaned.leaked == 0


def test_leaks_of_a_declared_group_are_exempt(tmp_path: Path) -> None:
    rows = [pair("What?", prose(1), fact="a"), pair("What?", prose(2), fact="b")]
    held = [pair("Who?", prose(1), fact="a"), pair("Who?", prose(2), fact="c")]
    fields = {"prompt": "prompt", "response": "response", "group": "fact"}
    cleaned = clean_rows(tmp_path, rows, held, fields=fields)
    assert cleaned.lines("evalLeakage") == [2]


def test_eval_equal_to_train_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"spec.data.expect.maxLeakedFraction: 3 of 3 held-out rows"):
        clean_rows(tmp_path, HELD, HELD)


def test_held_out_rows_that_are_only_alike_are_reported_and_refused_by_nobody(
    tmp_path: Path,
) -> None:
    rows = [pair("What?", almost(prose(n))) for n in (1, 2, 3)]
    cleaned = clean_rows(tmp_path, rows, HELD, expect={"maxLeakedFraction": 0})
    assert cleaned.leaked == 3


def test_repeats_among_the_held_out_rows_are_dropped_there(tmp_path: Path) -> None:
    cleaned = clean_rows(tmp_path, [pair("What?", prose(9))], [HELD[0], HELD[0], HELD[1]])
    assert len(cleaned.held) == 2
    assert cleaned.accounts[1].dropped == {"exactDuplicates": 1}


def test_too_many_broken_rows_end_the_stage_with_their_lines(tmp_path: Path) -> None:
    rows = [pair(prose(n)) for n in range(18)] + ["{", '{"prompt": "a"}']
    with pytest.raises(BadData) as caught:
        clean_rows(tmp_path, rows)
    assert caught.value.message.startswith("spec.data.train[0]: train.jsonl line 19: not valid JSO")
    assert "(2 of 20 rows are broken, spec.data.expect.maxBrokenFraction is 0.05)" in str(
        caught.value
    )
    (tmp_path / "scratch").rename(tmp_path / "first")
    assert len(clean_rows(tmp_path, rows, expect={"maxBrokenFraction": 0.1}).train) == 18


def test_no_row_left_is_an_error_that_counts_the_rules(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"no row is left of 2 \(emptyAnswers: 2\), such as train"):
        clean_rows(tmp_path, [pair("What?", ""), pair("Who?", " ")])


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        ("emptyAnswers", [pair("What?"), pair("Who?", "")]),
        ("exactDuplicates", [pair("What?"), pair("What?")]),
        ("duplicateIds", [pair("What?", id=1), pair("Who?", id=1)]),
        ("lengthOutliers", [*pairs(120), pair(prose(500, 400), prose(501, 400))]),
        ("ratioOutliers", [*pairs(120), pair(prose(500, 20), "No.")]),
        ("nearDuplicates", [pair("What?", prose(1)), pair("What?", almost(prose(1)))]),
    ],
)
def test_every_policy_of_every_rule_does_what_it_says(
    tmp_path: Path, rule: str, rows: list[dict[str, Any]]
) -> None:
    for policy in ("Drop", "Report", "Fail"):
        folder = tmp_path / policy
        folder.mkdir()
        cleaning = {rule: {"policy": policy} if rule == "nearDuplicates" else policy}
        if policy == "Fail":
            with pytest.raises(BadData, match=rf"\(spec\.data\.cleaning\.{rule} is Fail\)"):
                clean_rows(folder, rows, cleaning=cleaning)
            continue
        cleaned = clean_rows(folder, rows, cleaning=cleaning)
        (account,) = cleaned.accounts
        counts = account.dropped if policy == "Drop" else account.reported
        assert counts == {rule: 1}
        assert len(cleaned.train) == len(rows) - (policy == "Drop")
        assert cleaned.rejects[-1]["action"] == {"Drop": "dropped", "Report": "reported"}[policy]


def test_a_lost_row_would_be_our_own_fault_and_ends_the_stage() -> None:
    account = Account("spec.data.train[0]", read=5, kept=2, held_out=1)
    account.dropped["emptyAnswers"] = 2
    account.check()
    account.dropped["emptyAnswers"] = 1
    with pytest.raises(StageError, match="5 rows were read, 4 accounted for"):
        account.check()


def test_every_rule_with_a_policy_has_a_meaning() -> None:
    policies = set(Cleaning().model_dump(by_alias=True)) - {"normalize"}
    assert policies == set(list(MEANINGS)[:-3])


@pytest.mark.parametrize("file", ["train-samples.arrow", "bands/band-0"])
def test_a_full_disk_is_told_as_such(tmp_path: Path, file: str) -> None:
    data = Data.model_validate(
        {"train": [source(tmp_path, "rows", pairs(9))], "sequenceLength": 64}
    )
    scratch = tmp_path / "scratch"
    (scratch / file).parent.mkdir(parents=True)
    (scratch / file).symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        read_sides(
            data,
            locate_sides(data, scratch),
            scratch,
            Ledger(tmp_path / "rejects.jsonl", data.cleaning),
        )
    assert failure_class(caught.value).name == "DiskFull"


ROWS = st.lists(
    st.one_of(
        st.builds(pair, st.sampled_from("abc"), st.sampled_from(["", "x", "y", "x y z" * 9])),
        st.builds(lambda n: pair(prose(n), prose(n)), st.integers(0, 3)),
        st.sampled_from(["{", '{"prompt": 1}', '{"text": "other"}', "[]"]),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=40)
@given(rows=ROWS, held=st.none() | ROWS, fraction=st.sampled_from([0, 0.2]))
def test_every_row_is_kept_held_out_or_rejected(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Any],
    held: list[Any] | None,
    fraction: float,
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    expect = {"maxBrokenFraction": 1, "maxLeakedFraction": 1}
    try:
        cleaned = clean_rows(folder, rows, held, expect=expect, evalFraction=fraction)
    except BadData:
        return
    for account, given_rows in zip(cleaned.accounts, (rows, held), strict=False):
        dropped = [r for r in cleaned.rejects if r["action"] == "dropped"]
        mine = [r["line"] for r in dropped if r["source"] == account.field]
        assert account.read == len(given_rows or [])
        assert len(mine) == len(set(mine)) == sum(account.dropped.values())
    left = len(cleaned.train) + len(cleaned.held)
    assert left == sum(a.read - sum(a.dropped.values()) for a in cleaned.accounts)
