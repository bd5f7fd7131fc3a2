"""The report: its numbers are those of the data, and its page is safe to open and stands alone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from tiny_models import save_tiny_model

from finetune_trainer.config import RunConfig
from finetune_trainer.errors import BadData
from finetune_trainer.prepare import samples, splits, stage, tokenize
from finetune_trainer.prepare.cleaning import compare
from finetune_trainer.prepare.report import facts as report_facts
from finetune_trainer.prepare.report.page import percent, render_page

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> \"'&amp; {{ 7 * 7 }} 🙂"
REPORT = {
    "columns": ["kind", "rare"],
    "terms": [{"name": "gangs", "words": ["gang", "<b>{{ 1 }}</b>"]}],
}
BOXES = """[...document.querySelectorAll('%s')].map(each => {
    const box = each.getBoundingClientRect();
    return {left: box.left, right: box.right, width: box.width};
})"""
TAGS = frozenset(
    re.findall(
        r"\w+",
        "html head meta title style body main h1 h2 h3 p div b span i section svg line text g rect "
        "table tr th td small code article header pre mark ul li",
    )
)


def chat(number: int, answer: str = "A gang.") -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"What is {number}? {HOSTILE}"},
            {"role": "assistant", "content": f"{answer} {number} {HOSTILE}"},
        ],
        "kind": HOSTILE if number % 9 else None,
        "rare": number,
    }


def prepare(folder: Path, workspace: Path, **data: Any) -> dict[str, Any]:
    rows = [*(chat(n, "A gang. " * (1 + n % 9)) for n in range(60)), chat(3, "A gang. " * 4), "{"]
    (folder / "<b>.jsonl").write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    source = {"name": "facts", "field": "spec.data.train[0]", "path": str(folder / "<b>.jsonl")}
    config = RunConfig.model_validate(
        {
            "job": {"namespace": "team", "name": "bot", "uid": "u1"},
            "model": {"path": str(folder / "model")},
            "data": {"train": [source], "sequenceLength": 256, **data},
            "method": {"lora": {}},
            "training": {
                "epochs": 2,
                "microBatchSize": 2,
                "accumulation": 1,
                "learningRate": 0.001,
            },
            "zeroStage": 2,
            "workers": {"count": 2, "ranksPerWorker": 1, "device": "CPU"},
        }
    )
    return stage.run(config, workspace)["data"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("report")
    save_tiny_model(folder / "model")
    return folder, prepare(folder, folder / "ws", evalFraction=0.2, report=REPORT)


def facts(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "ws/data/report.json").read_text())
    return report


def test_the_numbers_are_those_of_the_result(prepared: tuple[Path, dict[str, Any]]) -> None:
    folder, data = prepared
    report = facts(folder)
    assert report["volume"]["rows"] == data["rows"] == 62
    assert report["volume"]["kept"] == data["kept"]
    assert report["volume"]["heldOut"] == data["evalRows"] > 0
    assert report["volume"]["tokens"] == data["tokens"]
    assert report["volume"]["supervisedTokens"] == data["supervisedTokens"]
    rules = {rule["rule"]: rule for rule in report["rules"]}
    assert {name: rule["dropped"] for name, rule in rules.items() if rule["dropped"]} == data[
        "dropped"
    ]
    assert rules["brokenRows"]["examples"][0].startswith("<b>.jsonl line 62: not valid JSON")
    (source,) = report["sources"]
    assert (source["rows"], source["kept"], source["tokens"]) == (62, data["kept"], data["tokens"])
    assert sum(report["lengths"]["train"]) == data["kept"]
    assert sum(report["lengths"]["heldOut"]) == data["evalRows"]
    assert report["packing"]["efficiency"] == round(data["tokens"] / 256 / data["packedRows"], 4)


def test_what_the_job_names_is_counted(prepared: tuple[Path, dict[str, Any]]) -> None:
    folder, data = prepared
    report = facts(folder)
    parts = {(part["kind"], part["name"]): part for part in report["balance"]}
    assert set(parts) == {
        ("source", "source"),
        ("column", "kind"),
        ("column", "rare"),
        ("language", "Language of the prompts"),
        ("language", "Language of the answers"),
        ("length", "tokens a row"),
    }
    kind, rare = parts["column", "kind"], parts["column", "rare"]
    assert kind["rows"] == kind["missing"] + kind["values"][0]["rows"] == data["kept"]
    assert (kind["distinct"], rare["distinct"]) == (1, data["kept"])
    assert 0 < kind["missing"] < 10
    source = parts["source", "source"]["values"][0]
    assert source["supervisedTokens"] == data["supervisedTokens"]
    assert sum(v["tokens"] for v in parts["length", "tokens a row"]["values"]) == data["tokens"]
    (gangs,) = report["terms"]
    gang, markup = gangs["terms"]
    assert gang["rows"] == gang["rowsLearnt"] == data["kept"]
    assert gang["occurrencesLearnt"] == gang["occurrences"] > data["kept"]
    assert markup["rows"] == 0
    answers = report["diversity"]["answers"]
    assert answers["beginnings"][0]["words"].startswith("a gang")
    assert answers["rows"] == data["kept"]
    assert report["diversity"]["coverage"]["prompts"] == data["evalRows"]
    assert report["plan"]["steps"] == 2 * -(-data["packedRows"] // 4)
    assert data["warnings"] == report["warnings"][:6]


def test_what_the_report_counts_changes_nothing_of_the_data(
    prepared: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, data = prepared
    plain = prepare(folder, tmp_path / "ws", evalFraction=0.2)
    assert plain["digest"] == data["digest"]
    page = (tmp_path / "ws/data/report.html").read_text()
    assert "Terms that were asked for" not in page


def test_a_column_that_no_row_has_is_refused_by_name(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    with pytest.raises(
        BadData, match=r"spec\.data\.report\.columns\[1\]: no training row has a column 'lable'"
    ):
        prepare(tmp_path, tmp_path / "ws", report={"columns": ["kind", "lable"]})


def test_the_samples_show_what_is_learnt(prepared: tuple[Path, dict[str, Any]]) -> None:
    samples = facts(prepared[0])["samples"]
    assert len(samples) == 5
    assert [sample["tokens"] for sample in samples] == sorted(s["tokens"] for s in samples)
    for sample in samples:
        learnt = "".join(part["text"] for part in sample["parts"] if part["learnt"])
        read = "".join(part["text"] for part in sample["parts"] if not part["learnt"])
        assert learnt.startswith("A gang.")
        assert learnt.endswith("<|im_end|>")
        assert read.startswith("<|im_start|>user\nWhat is ")
        assert "A gang." not in read


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_the_page_stands_alone_and_nothing_of_the_data_is_markup(
    prepared: tuple[Path, dict[str, Any]],
) -> None:
    page = (prepared[0] / "ws/data/report.html").read_text()
    parser = Tags()
    parser.feed(page)
    assert parser.tags <= TAGS
    assert not parser.attributes & {"src", "href", "srcset", "onerror", "onload", "onclick"}
    assert "default-src 'none'" in page
    assert "url(" not in page and "@import" not in page and "http:" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    assert "{{ 1 }}" in page and "<b>{{ 1 }}" not in page
    assert "&lt;b&gt;.jsonl line 62" in page


def test_a_browser_shows_all_of_it_on_wide_and_narrow_screens(
    prepared: tuple[Path, dict[str, Any]], chromium: str, tmp_path: Path
) -> None:
    folder, _ = prepared
    page = folder / "ws/data/report.html"
    with Browser(chromium, tmp_path) as it:
        for width in (1180, 390):
            screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            it.call("Emulation.setDeviceMetricsOverride", **screen)
            it.open(page)
            assert it.evaluate("document.scrollingElement.scrollWidth") <= width
            charts = it.evaluate(BOXES % "svg")
            assert charts and all(box["width"] > 200 and box["right"] <= width for box in charts)
            texts = it.evaluate(BOXES % "svg text")
            assert texts and all(box["left"] >= 0 and box["right"] <= width for box in texts)
            assert len(it.events("Network.requestWillBeSent")) == 1, "the page itself"
        learnt = it.evaluate("[...document.querySelectorAll('.sample mark')].map(m => m.innerText)")
        assert len(learnt) >= 5 and all("gang" in text for text in learnt)
        colours = it.evaluate(
            "['.sample mark', '.sample'].map(s => getComputedStyle(document.querySelector(s))"
            ".backgroundColor)"
        )
        assert colours[0] not in (colours[1], "rgba(0, 0, 0, 0)"), "what is learnt is coloured"


def test_data_with_next_to_nothing_in_it_still_has_a_page(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    (tmp_path / "<b>.jsonl").write_text("")
    data = prepare(tmp_path, tmp_path / "ws", evalFraction=0, packing="None")
    assert data["evalRows"] == 0
    assert "None loses its end." in (tmp_path / "ws/data/report.html").read_text()


def test_the_same_data_gives_the_same_report(
    prepared: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, data = prepared
    again = prepare(folder, tmp_path / "ws", evalFraction=0.2, report=REPORT)
    assert again["digest"] == data["digest"]
    for name in ("report.json", "report.html", "rejects.jsonl"):
        assert (tmp_path / "ws/data" / name).read_bytes() == (
            folder / "ws/data" / name
        ).read_bytes()


def test_several_processes_make_the_same_data_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_model(tmp_path / "model")
    made = {}
    for processes in (1, 3):
        for module in (stage, splits):
            monkeypatch.setattr(module, "usable_processes", lambda processes=processes: processes)
        for module, name in (
            (samples, "_ROWS_AT_ONCE"),
            (compare, "_AT_ONCE"),
            (tokenize, "_AT_ONCE"),
            (report_facts, "_AT_ONCE"),
        ):
            monkeypatch.setattr(module, name, 1000 if processes == 1 else 9)
        workspace = tmp_path / f"ws{processes}"
        prepare(tmp_path, workspace, report=REPORT, evalFraction=0.3)
        made[processes] = {
            str(path.relative_to(workspace)): path.read_bytes()
            for path in (workspace / "data").rglob("*")
            if path.is_file() and path.name != "manifest.json"
        }
    assert made[1] == made[3]


def test_a_report_is_rendered_from_its_json_alone(prepared: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = prepared
    assert render_page(facts(folder)) == (folder / "ws/data/report.html").read_text()


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0.0 %"), (0.0004, "< 0.1 %"), (0.0123, "1.2 %"), (0.5, "50 %"), (1, "100 %")],
)
def test_shares_are_written_for_people(share: float, text: str) -> None:
    assert percent(share) == text
