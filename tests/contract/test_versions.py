"""One minimum of Kubernetes, in every place that names it, and nothing in the CRD that is newer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from api_cases import ROOT

from finetune_operator.api.crd import crd
from finetune_operator.plan import IMAGE_VOLUMES_SINCE

CHART = ROOT / "helm" / "finetune-operator"
SINCE = {
    "has": 25,
    "size": 25,
    "all": 25,
    "exists": 25,
    "contains": 25,
    "matches": 25,
    "startsWith": 25,
    "double": 25,
    "fieldPath": 28,
    "selectableFields": 32,
}
"""Minor version of Kubernetes since which a part of the CRD is there, and on by default and for
good."""


def minimum() -> int:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    [minor] = re.fullmatch(r">=1\.(\d+)\.0-0", chart["kubeVersion"]).groups()  # type: ignore[union-attr]
    return int(minor)


def rules(node: Any) -> Iterator[dict[str, str]]:
    if isinstance(node, dict):
        yield from node.get("x-kubernetes-validations", ())
        for part in node.values():
            yield from rules(part)


def test_readme_and_docs_name_the_charts_minimum() -> None:
    for page in ("README.md", "docs/installing.md"):
        versions = re.findall(r"Kubernetes ≥ 1\.(\d+)", (ROOT / page).read_text())
        assert versions == [str(minimum())], page


def test_what_is_lost_below_the_version_of_image_volumes_is_told() -> None:
    assert minimum() < IMAGE_VOLUMES_SINCE
    for page in ("README.md", "docs/installing.md", "helm/finetune-operator/templates/NOTES.txt"):
        assert f"1.{IMAGE_VOLUMES_SINCE}" in (ROOT / page).read_text(), page


def test_the_crd_uses_nothing_newer() -> None:
    [version] = crd()["spec"]["versions"]
    used = {"selectableFields"} & version.keys()
    for rule in rules(version["schema"]["openAPIV3Schema"]):
        code = re.sub(r"r?'[^']*'", "", rule["rule"])
        used |= set(re.findall(r"([A-Za-z]+)\(", code)) | (rule.keys() - {"rule", "message"})
    assert used == SINCE.keys(), "a function or a field that is new here needs its version"
    assert max(SINCE.values()) <= minimum()
