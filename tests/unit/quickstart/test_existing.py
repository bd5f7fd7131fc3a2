"""An existing cluster is named in every command shown, and a release of others is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from quickstart import release
from quickstart.errors import QuickstartError
from quickstart.kube import Kube
from quickstart.options import Foreign
from quickstart.targets import Existing

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: prod, context: {cluster: c, user: u}}]
current-context: other
"""
PROD = Foreign("prod", "registry.example/team", plain_http=True, storage_class="nfs")


@pytest.fixture
def existing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Existing:
    (tmp_path / "config").write_text(KUBECONFIG)
    # The library has read $KUBECONFIG when it was imported.
    place = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(place, str(tmp_path / "config"))
    return Existing(PROD)


def test_every_command_names_the_cluster(existing: Existing) -> None:
    assert existing.kubectl() == "kubectl --context prod"
    assert existing.farewell() == (
        "kubectl --context prod delete namespace quickstart && helm --kube-context prod "
        "uninstall finetune-operator --namespace finetune-system"
    )
    assert existing.again() == (
        "CONTEXT=prod REGISTRY=registry.example/team REGISTRY_PLAIN_HTTP=1 STORAGE_CLASS=nfs "
        "make quickstart"
    )


def test_a_cluster_that_does_not_answer_is_said_in_a_sentence(existing: Existing) -> None:
    with pytest.raises(QuickstartError, match="The cluster of context prod does not answer: "):
        existing.look()


class Secrets:
    def __init__(self, *labels: dict[str, str] | None) -> None:
        self.found = [{"metadata": {"labels": each}} for each in labels]

    def list(self, version: str, kind: str, namespace: str, selector: str = "") -> Any:
        assert (kind, namespace) == ("Secret", "finetune-system")
        assert selector == "owner=helm,name=finetune-operator"
        return self.found


@pytest.mark.parametrize("labels", [(), ({release.MARK: "true"},) * 2])
def test_no_release_and_the_quickstart_s_own_are_no_objection(labels: tuple[Any, ...]) -> None:
    release.refuse_another(cast(Kube, Secrets(*labels)), "It")


@pytest.mark.parametrize("labels", [(None,), ({release.MARK: "true"}, {"owner": "helm"})])
def test_a_release_of_others_is_not_replaced(labels: tuple[Any, ...]) -> None:
    with pytest.raises(QuickstartError, match="It has a release finetune-operator in namespace"):
        release.refuse_another(cast(Kube, Secrets(*labels)), "It")
