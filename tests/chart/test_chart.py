"""What the chart installs, and what it refuses."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_cases import ROOT

from finetune_operator.api.crd import crd
from finetune_operator.settings import Settings, load_settings

CHART = ROOT / "helm" / "finetune-operator"
Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]
DIGEST = "sha256:" + "a" * 64


def of_kind(kind: str, manifests: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def the(kind: str, manifests: list[Manifest]) -> Manifest:
    [manifest] = of_kind(kind, manifests)
    return manifest


def pod_of(manifests: list[Manifest]) -> Manifest:
    spec: Manifest = the("Deployment", manifests)["spec"]["template"]["spec"]
    return spec


def environment_of(manifests: list[Manifest]) -> dict[str, str]:
    [container] = pod_of(manifests)["containers"]
    return {variable["name"]: variable["value"] for variable in container["env"]}


def test_helm_lint_is_content(helm: Path) -> None:
    done = subprocess.run(
        [str(helm), "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


class TestDefaults:
    def test_it_installs_this_and_no_more(self, render: Render) -> None:
        kinds = sorted(manifest["kind"] for manifest in render())

        assert kinds == [
            "ClusterRole", "ClusterRole", "ClusterRole", "ClusterRoleBinding",
            "CustomResourceDefinition", "Deployment", "Service", "ServiceAccount",
        ]  # fmt: skip

    def test_one_operator_at_a_time(self, render: Render) -> None:
        spec = the("Deployment", render())["spec"]

        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})

    def test_the_pod_obeys_the_restricted_profile(self, render: Render) -> None:
        pod = pod_of(render())
        [container] = pod["containers"]

        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert [list(volume)[1:] for volume in pod["volumes"]] == [["emptyDir"]]

    def test_the_probes_ask_the_operator(self, render: Render) -> None:
        [container] = pod_of(render())["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}

        assert ports == {"health": Settings().health_port, "metrics": Settings().metrics_port}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"] == {"path": "/healthz", "port": "health"}

    def test_the_images_are_those_of_the_chart_version(self, render: Render) -> None:
        manifests = render()
        version = yaml.load((CHART / "Chart.yaml").read_text(), yaml.CSafeLoader)["appVersion"]

        assert pod_of(manifests)["containers"][0]["image"].endswith(f"/operator:{version}")
        assert environment_of(manifests)["FINETUNE_TRAINER_IMAGE"].endswith(f"/trainer:{version}")

    def test_monitors_are_off(self, render: Render) -> None:
        assert not of_kind("ServiceMonitor", render())
        assert not of_kind("PodMonitor", render())

    def test_the_metrics_service_reaches_the_operator_pod(self, render: Render) -> None:
        manifests = render()
        service = the("Service", manifests)["spec"]
        labels = the("Deployment", manifests)["spec"]["template"]["metadata"]["labels"]

        assert service["ports"] == [{"name": "metrics", "port": 9402, "targetPort": "metrics"}]
        assert service["selector"].items() <= labels.items()


class TestSettings:
    def test_every_variable_is_one_that_the_operator_reads(self, render: Render) -> None:
        known = {f"FINETUNE_{name.upper()}" for name in Settings.__dataclass_fields__}
        values = {
            "watchNamespaces": ["a"],
            "trainer": {"hfEndpoint": "https://hub", "env": {"HTTPS_PROXY": "http://proxy:3128"}},
        }

        assert set(environment_of(render(values))) <= known

    def test_the_defaults_are_the_operators_own(self, render: Render) -> None:
        read = load_settings(environment_of(render()))
        own = Settings(trainer_image=read.trainer_image)

        assert read == own

    def test_values_reach_the_operator(self, render: Render) -> None:
        read = load_settings(
            environment_of(
                render(
                    {
                        "watchNamespaces": ["team-a", "team-b"],
                        "serving": {"image": "mirror.test/vllm:1"},
                        "logLevel": "DEBUG",
                        "tuning": {
                            "workers": 3,
                            "progressSeconds": 2.5,
                            "jobMetricsLimit": 1000000,
                        },
                        "trainer": {
                            "hfEndpoint": "http://hub:8000",
                            "env": {"B": "2", "A": "1"},
                            "image": {"pullPolicy": "Always"},
                        },
                    }
                )
            )
        )

        assert read.watched_namespaces == ("team-a", "team-b")
        assert read.log_level == "DEBUG"
        assert read.serving_image == "mirror.test/vllm:1"
        assert (read.workers, read.progress_seconds, read.job_metrics_limit) == (3, 2.5, 1000000)
        assert read.trainer_environment == (
            ("HF_ENDPOINT", "http://hub:8000"),
            ("A", "1"),
            ("B", "2"),
        )
        assert read.image_pull_policy == "Always"

    @pytest.mark.parametrize("which", ["image", "trainer"])
    def test_a_digest_wins_over_the_tag(self, render: Render, which: str) -> None:
        image = {"repository": "registry/x", "tag": "1", "digest": DIGEST}
        manifests = render({"image": image} if which == "image" else {"trainer": {"image": image}})
        shown = (
            pod_of(manifests)["containers"][0]["image"]
            if which == "image"
            else environment_of(manifests)["FINETUNE_TRAINER_IMAGE"]
        )

        assert shown == f"registry/x@{DIGEST}"

    def test_placement_and_labels_reach_the_pod(self, render: Render) -> None:
        values = {
            "nodeSelector": {"pool": "system"},
            "tolerations": [{"key": "a", "operator": "Exists"}],
            "priorityClassName": "system-cluster-critical",
            "imagePullSecrets": [{"name": "pull"}],
            "podLabels": {"team": "ml"},
            "podAnnotations": {"note": "x"},
            "commonLabels": {"cost": "42"},
        }
        manifests = render(values)
        pod, template = pod_of(manifests), the("Deployment", manifests)["spec"]["template"]

        assert pod["nodeSelector"] == {"pool": "system"}
        assert pod["tolerations"] == [{"key": "a", "operator": "Exists"}]
        assert pod["priorityClassName"] == "system-cluster-critical"
        assert pod["imagePullSecrets"] == [{"name": "pull"}]
        assert template["metadata"]["labels"]["team"] == "ml"
        assert template["metadata"]["annotations"] == {"note": "x"}
        assert all(m["metadata"]["labels"]["cost"] == "42" for m in manifests)

    @pytest.mark.parametrize(
        "values, says",
        [
            ({"imagee": {}}, "imagee"),
            ({"tuning": {"worker": 1}}, "worker"),
            ({"tuning": {"workers": 0}}, "/tuning/workers"),
            ({"image": {"tag": 1}}, "/image/tag"),
            ({"image": {"digest": "abc"}}, "/image/digest"),
            ({"logLevel": "debug"}, "/logLevel"),
            ({"watchNamespaces": "a"}, "/watchNamespaces"),
            ({"trainer": {"env": {"A": "two words"}}}, "/trainer/env/A"),
            ({"serviceAccount": {"create": False}}, "serviceAccount.name"),
            (
                {"metrics": {"service": {"enabled": False}, "serviceMonitor": {"enabled": True}}},
                "metrics.service.enabled",
            ),
        ],
    )
    def test_wrong_values_are_refused_by_name(
        self, render: Render, values: dict[str, Any], says: str
    ) -> None:
        with pytest.raises(ValueError, match=says):
            render(values)


class TestCrd:
    def test_it_is_the_generated_one(self, render: Render) -> None:
        assert the("CustomResourceDefinition", render())["spec"] == crd()["spec"]

    def test_it_survives_an_uninstall(self, render: Render) -> None:
        annotations = the("CustomResourceDefinition", render())["metadata"]["annotations"]

        assert annotations["helm.sh/resource-policy"] == "keep"

    def test_keeping_it_can_be_switched_off(self, render: Render) -> None:
        manifests = render({"crds": {"keep": False}})

        assert "annotations" not in the("CustomResourceDefinition", manifests)["metadata"]

    def test_it_can_be_left_out(self, render: Render) -> None:
        assert not of_kind("CustomResourceDefinition", render({"crds": {"enabled": False}}))


class TestRights:
    MATRIX = (
        {},
        {"watchNamespaces": ["team-a"]},
        {"rbac": {"aggregateRoles": False}},
    )

    @pytest.mark.parametrize("values", MATRIX, ids=["cluster", "namespaced", "no user roles"])
    def test_no_rule_is_wide_or_dangerous(self, render: Render, values: dict[str, Any]) -> None:
        manifests = render(values)
        rules = [
            rule
            for kind in ("Role", "ClusterRole")
            for role in of_kind(kind, manifests)
            for rule in role["rules"]
        ]
        forbidden = {"*", "escalate", "bind", "impersonate"}

        assert rules
        for rule in rules:
            assert not forbidden & {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert not {"secrets", "nodes", "roles", "serviceaccounts"} & set(rule["resources"])

    def test_the_operator_may_do_this_and_no_more(self, render: Render) -> None:
        [role] = [
            role
            for role in of_kind("ClusterRole", render())
            if role["metadata"]["name"] == "finetune-operator"
        ]
        rights = {
            resource: sorted(rule["verbs"])
            for rule in role["rules"]
            for resource in rule["resources"]
        }

        assert rights == {
            "finetunejobs": ["get", "list", "watch"],
            "finetunejobs/status": ["update"],
            "jobs": ["create", "delete", "get", "list", "watch"],
            "pods": ["list", "watch"],
            "services": ["create", "delete", "get", "patch"],
            "configmaps": ["create", "delete", "get", "patch"],
            "persistentvolumeclaims": ["create", "get"],
            "events": ["create", "list"],
            "workloads": ["list"],
        }

    def test_roles_are_bound_to_the_operator_alone(self, render: Render) -> None:
        manifests = render()
        [subject] = the("ClusterRoleBinding", manifests)["subjects"]

        assert subject == {
            "kind": "ServiceAccount",
            "name": the("ServiceAccount", manifests)["metadata"]["name"],
            "namespace": "finetune-system",
        }
        assert pod_of(manifests)["serviceAccountName"] == subject["name"]

    def test_with_namespaces_nothing_is_cluster_wide(self, render: Render) -> None:
        manifests = render({"watchNamespaces": ["team-a", "team-b"]})
        cluster_wide = of_kind("ClusterRole", manifests) + of_kind("ClusterRoleBinding", manifests)

        assert not cluster_wide
        for kind in ("Role", "RoleBinding"):
            found = [m["metadata"]["namespace"] for m in of_kind(kind, manifests)]
            assert found == ["team-a", "team-b"]

    def test_the_role_in_a_namespace_is_the_same_as_in_the_cluster(self, render: Render) -> None:
        [wide] = [
            role
            for role in of_kind("ClusterRole", render())
            if role["metadata"]["name"] == "finetune-operator"
        ]

        assert the("Role", render({"watchNamespaces": ["a"]}))["rules"] == wide["rules"]

    def test_users_get_rights_by_the_roles_they_have(self, render: Render) -> None:
        roles = {
            role["metadata"]["name"].removeprefix("finetune-operator-"): role
            for role in of_kind("ClusterRole", render())
        }
        aggregated = {
            name: {
                label.removeprefix("rbac.authorization.k8s.io/aggregate-to-")
                for label in role["metadata"]["labels"]
                if "aggregate-to" in label
            }
            for name, role in roles.items()
        }

        assert aggregated["view"] == {"view", "edit", "admin"}
        assert aggregated["edit"] == {"edit", "admin"}
        assert "finetunejobs/status" not in roles["edit"]["rules"][0]["resources"]


class TestMonitors:
    VALUES = {  # noqa: RUF012
        "metrics": {
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "podMonitor": {"enabled": True},
        }
    }

    def test_the_label_namespace_is_that_of_the_job(self, render: Render) -> None:
        manifests = render(self.VALUES)
        [operator] = the("ServiceMonitor", manifests)["spec"]["endpoints"]
        [training] = the("PodMonitor", manifests)["spec"]["podMetricsEndpoints"]

        assert operator["honorLabels"] and training["honorLabels"]
        assert the("ServiceMonitor", manifests)["metadata"]["labels"]["release"] == "prometheus"

    def test_each_rank_is_scraped_under_the_name_of_its_job(self, render: Render) -> None:
        [training] = the("PodMonitor", render(self.VALUES))["spec"]["podMetricsEndpoints"]
        keep, name = training["relabelings"]

        assert "port" not in training and keep["action"] == "keep"
        assert all(re.fullmatch(keep["regex"], port) for port in ("metrics", "metrics-1"))
        assert name == {
            "sourceLabels": ["__meta_kubernetes_pod_label_finetune_dev_job"],
            "targetLabel": "finetunejob",
        }

    def test_training_pods_are_found_where_they_run(self, render: Render) -> None:
        everywhere = the("PodMonitor", render(self.VALUES))["spec"]
        somewhere = the("PodMonitor", render({**self.VALUES, "watchNamespaces": ["a"]}))["spec"]

        assert everywhere["namespaceSelector"] == {"any": True}
        assert somewhere["namespaceSelector"] == {"matchNames": ["a"]}
        assert everywhere["selector"]["matchLabels"]["finetune.dev/stage"] == "train"


@pytest.mark.parametrize(
    "release, name",
    [
        ("finetune-operator", "finetune-operator"),
        ("prod", "prod-finetune-operator"),
        ("my-finetune-operator", "my-finetune-operator"),
    ],
)
def test_names_follow_the_release(render: Render, release: str, name: str) -> None:
    assert the("Deployment", render(release=release))["metadata"]["name"] == name
