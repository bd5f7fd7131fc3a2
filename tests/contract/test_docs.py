"""What the documents name is there: files, headings, and fields of the API."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_cases import ROOT

from finetune_operator.api.crd import crd
from finetune_operator.api.types import KIND, FineTuneJob

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
[_VERSION] = crd()["spec"]["versions"]
JOB = _VERSION["schema"]["openAPIV3Schema"]["properties"]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text())
    dead = [
        f"{path}#{anchor}"
        for path, anchor in links
        if not (target := page.parent / path if path else page).exists()
        or (anchor and target.suffix == ".md" and anchor not in anchors(target))
    ]
    assert not dead


def blocks() -> Iterator[tuple[str, dict[str, Any]]]:
    """The page, and what stands in one of its YAML blocks."""
    for page in PAGES:
        found = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        for text in found:
            for content in yaml.safe_load_all(text):
                yield page.name, content


def of_a_job(content: dict[str, Any]) -> dict[str, Any] | None:
    """A block may show a part of spec or status alone; None: it is about something else."""
    if "kind" in content:
        return content if content["kind"] == KIND else None
    if content.keys() & {"spec", "status"}:
        return content
    sides = (
        side for side in ("spec", "status") if content.keys() <= JOB[side]["properties"].keys()
    )
    return next(({side: content} for side in sides), None)


ABOUT_JOBS = [
    pytest.param(part, id=f"{page} {number}")
    for number, (page, content) in enumerate(blocks())
    if (part := of_a_job(content)) is not None
]


@pytest.mark.parametrize("part", ABOUT_JOBS)
def test_every_manifest_and_part_of_one_has_fields_that_exist(part: dict[str, Any]) -> None:
    if "kind" in part:
        FineTuneJob.model_validate(part)
    else:
        assert list(unknown_fields(part, {"properties": JOB})) == []


def test_the_pages_show_jobs() -> None:
    assert len(ABOUT_JOBS) > 20


def unknown_fields(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Paths of ``value`` that the schema does not have."""
    if isinstance(value, list):
        for item in value:
            yield from unknown_fields(item, schema.get("items", {}), path)
    if not isinstance(value, dict):
        return
    for name, part in value.items():
        if name == "…":
            continue
        if "properties" not in schema:
            yield from unknown_fields(part, schema.get("additionalProperties", {}), path)
        elif name not in schema["properties"]:
            yield f"{path}.{name}"
        else:
            yield from unknown_fields(part, schema["properties"][name], f"{path}.{name}")


def test_the_rights_in_the_docs_are_those_of_the_chart() -> None:
    helpers = (ROOT / "helm/finetune-operator/templates/_helpers.tpl").read_text()
    [text] = re.findall(r'define "finetune-operator.rules" -}}\n(.*?){{- end', helpers, re.DOTALL)
    granted = {
        (group, resource, verb)
        for rule in yaml.safe_load(text)
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    told = set()
    for line in (ROOT / "docs/installing.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"(`[a-z/]+`(, )?)+", cells[1]):
            for resource in re.findall(r"`([^`]+)`", cells[1]):
                told |= {(cells[0].strip("`"), resource, verb) for verb in cells[2].split(", ")}
    assert told == granted
