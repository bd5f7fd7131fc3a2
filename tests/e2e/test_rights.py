"""The operator's role against the audit log of all end-to-end tests of this cluster.

It holds what the operator calls and nothing that nobody uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from e2e.jobs import Jobs
from e2e.kubectl import Kubectl, wait_for
from e2e.place import claim
from faults.audit import calls

if TYPE_CHECKING:
    from local_cluster import LocalCluster

pytestmark = [pytest.mark.e2e, pytest.mark.last]

Right = tuple[str, str, str]
"""API group, resource, verb."""
SELDOM: dict[Right, str] = {
    ("", "services", "patch"): "only where somebody has changed the Service of a gang",
    ("", "configmaps", "patch"): "only where what a job says has changed before its next attempt",
    ("", "events", "list"): "only where pods do not come up for a while and do not say why",
    ("batch", "jobs", "get"): "only where a Job of the name is there and no watch has told of it",
    ("kueue.x-k8s.io", "workloads", "list"): "only where a gang queues; Kueue is on cluster 2",
}
"""Rights that a run of these tests may do without; unit tests use them (test_cluster.py)."""


def rights(kubectl: Kubectl, role: str) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in kubectl.json("get", "clusterrole", role)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_role_is_what_the_operator_uses(
    cluster: LocalCluster,
    kubectl: Kubectl,
    operator: str,
    namespace: str,
    audited_before: int,
    all_of_the_cluster: bool,
) -> None:
    jobs = Jobs(kubectl, namespace)
    kubectl.apply(claim("work"), namespace=namespace)
    jobs.apply("own-claim", storage={"size": "1Gi"}, output={"uri": "pvc://work/model"})
    asked = ("get", "pvc", "own-claim-work", "--ignore-not-found", "-o", "name")
    wait_for("its claim is there", lambda: kubectl(*asked, namespace=namespace), 90)
    jobs.delete("own-claim")

    asked_for = calls(cluster.paths.audit_log, audited_before)
    writers = {
        call.user
        for call in asked_for
        if (call.resource, call.verb) == ("finetunejobs/status", "update")
    }
    shared = f"system:serviceaccount:{operator}:finetune-operator"
    assert shared in writers
    # Others were uninstalled: their roles went a moment before their pods.
    refused = {call for call in asked_for if call.user == shared and not call.allowed}
    assert refused == set(), "refused for want of a right"

    granted = rights(kubectl, "finetune-operator")
    used = {
        (call.group, call.resource, call.verb)
        for call in asked_for
        if call.user in writers and call.allowed
    }
    assert used <= granted, "allowed by a role that is not the chart's"
    assert SELDOM.keys() <= granted
    if all_of_the_cluster:
        assert granted - used <= SELDOM.keys(), "granted, and used by nobody"
