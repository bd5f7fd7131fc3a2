"""The page for raters, played through by keyboard in a real browser, from a file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser

from finetune_operator.policies.ratings import find_fault, read_ratings, tally
from finetune_trainer.judging.bundle import PAGE, Bundle, make_bundle, write_bundle

from .test_bundle import make_config, row

TEXTS = ["plain", "<b>bold</b> & </script>", "line\n\n  indented", "ünï ☃ 𝄞 العربية"]
ROWS = [row(number, f"old {text}", f"new {text}") for number, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    made = make_bundle(make_config(), ROWS)
    assert made is not None
    return made


@pytest.fixture
def page(bundle: Bundle, tmp_path: Path) -> Path:
    write_bundle(bundle, make_config(), tmp_path)
    return tmp_path / PAGE


@pytest.fixture(scope="module")
def window(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(chromium, tmp_path_factory.mktemp("browser")) as it:
        yield it


@pytest.fixture
def opened(window: Browser, page: Path) -> Browser:
    window.open(page)
    window.evaluate("localStorage.clear(), sessionStorage.clear()")
    window.open(page)
    return window


def test_by_keyboard_from_the_name_to_the_file_that_the_operator_counts(
    opened: Browser, bundle: Bundle, page: Path
) -> None:
    assert "4 prompts" in opened.text("#start")
    opened.press("Enter")  # without a name nothing begins
    assert opened.text("#item") == ""
    opened.write("  Ann   Müller ")
    opened.press("Enter")
    for item in bundle.items:
        assert opened.text("#where") == f"{item['id']} of 4"
        for side in ("a", "b"):
            shown = opened.evaluate(f"document.querySelector('#{side} .text').textContent")
            assert shown == item[side]
        opened.press("1" if item["id"] in bundle.tuned_first else "2")  # the tuned one, always
    assert opened.text("#end h2") == "Done, thank you"
    assert "create configmap bot-ratings --from-file=ratings/" in opened.text("#command")

    opened.press("Backspace", "3")  # a second thought on the last one
    opened.press("s")
    file = opened.download()
    assert file.name == "ratings-ann-muller.json"
    ratings = read_ratings({file.name: file.read_text()})
    assert find_fault(ratings, bundle.digest, 4) is None
    votes = tally(ratings, bundle.tuned_first, 4)
    assert (votes.wins, votes.losses, votes.ties, votes.win_rate) == (3, 0, 1, 0.875)
    assert ratings.sheets[0].rater == "Ann Müller"

    urls = {each["request"]["url"] for each in opened.events("Network.requestWillBeSent")}
    assert {url for url in urls if not url.startswith(("blob:", "data:"))} == {page.as_uri()}


def test_a_reload_loses_nothing_and_goes_on_where_it_was(opened: Browser) -> None:
    opened.write("Ann")
    opened.press("Enter", "4", "Enter", "2")
    opened.reload()
    assert opened.text("#where") == "4 of 4"
    assert opened.evaluate("document.querySelector('#bar').ariaValueNow") == "2"
    opened.press("Backspace", "Backspace", "Backspace")
    assert opened.text("#where") == "1 of 4"
    assert opened.evaluate("document.querySelector('button[aria-pressed=true]').dataset.mark") == (
        "BothBad"
    )
    opened.press("Enter", "Enter", "Enter", "Enter")
    assert opened.text("#left") == "2 of 4 rated, 2 without a rating."
    opened.press("Tab")  # from the heading to the first button
    assert opened.evaluate("document.activeElement.id") == "save"
    opened.press("s")
    assert json.loads(opened.download().read_text())["ratings"] == {"1": "BothBad", "3": "B"}


def test_what_one_memory_of_the_browser_loses_the_other_one_has(opened: Browser) -> None:
    """Chromium under load has read both storages of a file as empty after one reload in ten; what
    it keeps of the tab's history was never lost."""
    opened.write("Ann")
    opened.press("Enter", "4")
    opened.evaluate("localStorage.clear(), sessionStorage.clear()")
    opened.reload()
    assert opened.text("#where") == "2 of 4"
    opened.press("2")
    assert opened.evaluate("localStorage.getItem(place) === sessionStorage.getItem(place)")
    for memory in ("localStorage", "sessionStorage"):
        older = "JSON.stringify({rater: 'Bo', at: 0, ratings: {}, kept: state.kept - 1})"
        opened.evaluate(f"{memory}.setItem(place, {older})")
        assert opened.evaluate("recall().rater") == "Ann"
        opened.evaluate(f"{memory}.clear()")
        assert opened.evaluate("recall().at") == 2
        opened.evaluate("keep()")


def test_what_somebody_spoilt_in_the_browsers_memory_is_not_saved(opened: Browser) -> None:
    opened.evaluate(
        "MEMORIES.forEach((memory) => memory().setItem(place, JSON.stringify({rater: 'Ann', at: 99,"
        " ratings: {1: 'A', 2: 'toString', 9: 'A'}})))"
    )
    opened.reload()
    opened.press("s")
    assert json.loads(opened.download().read_text())["ratings"] == {"1": "A"}


def test_texts_are_shown_and_never_run_and_every_control_has_a_name(opened: Browser) -> None:
    opened.write("Ann")
    opened.press("Enter", "Enter")
    assert "<b>bold</b> & </script>" in opened.text("#a")
    assert opened.evaluate("document.querySelectorAll('#answers b').length") == 0
    unnamed = opened.evaluate(
        "[...document.querySelectorAll('button, input, summary')].filter((e) =>"
        " !(e.innerText || e.textContent || e.labels?.[0]?.textContent)).length"
    )
    assert unnamed == 0
    tree = opened.call("Accessibility.getFullAXTree")["nodes"]
    names = {node.get("name", {}).get("value", "") for node in tree}
    assert any(re.match("A is better", name) for name in names) and "Answer A" in names
    opened.press("ArrowLeft")
    assert opened.text("#said") == "A is better."
