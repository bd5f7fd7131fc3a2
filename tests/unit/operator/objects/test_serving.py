"""serving.yaml: what serves the result, for people to apply."""

from __future__ import annotations

from typing import Any

import yaml
from builders import make_plan, make_spec

from finetune_operator.objects.run_config_map import build_run_config_map
from finetune_operator.objects.serving import serving_manifest
from finetune_operator.plan import Platform
from finetune_operator.settings import Settings


def served(**output: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    text = serving_manifest(make_plan(make_spec(output={"formats": ["Merged"], **output})))
    assert text is not None
    deployment, service = yaml.safe_load_all(text)
    return deployment, service


def test_the_pod_reads_the_merged_model_where_export_puts_it() -> None:
    plan = make_plan()
    for output, claim, folder in (
        ({}, "work", f"{plan.workspace}/output/merged"),
        ({"uri": "pvc://results/bots/one"}, "results", "bots/one/merged"),
        ({"uri": "pvc://results"}, "results", "merged"),
    ):
        pod = served(**output)[0]["spec"]["template"]["spec"]
        (volume,) = [v for v in pod["volumes"] if v["name"] == "model"]
        assert volume["persistentVolumeClaim"] == {"claimName": claim}
        (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "model"]
        assert (mount["subPath"], mount["readOnly"]) == (folder, True)
        assert pod["containers"][0]["command"] == ["vllm", "serve", mount["mountPath"]]


def test_the_service_finds_the_pod_and_the_operator_does_not() -> None:
    deployment, service = served()
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert not [name for name in labels if name.startswith("finetune.dev/")]
    (port,) = deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]


def test_it_keeps_to_the_restricted_profile() -> None:
    pod = served()[0]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False


def test_the_platform_chooses_the_servers_image() -> None:
    platform = Platform(Settings(trainer_image="example.test/t:1", serving_image="mirror.test/v:1"))
    text = serving_manifest(make_plan(platform=platform))
    deployment = next(yaml.safe_load_all(str(text)))
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "mirror.test/v:1"


def test_an_adapter_alone_comes_without_it() -> None:
    adapter = make_plan(make_spec(output={"formats": ["Adapter"]}))
    assert serving_manifest(adapter) is None
    assert set(build_run_config_map(adapter)["data"]) == {"run.json"}
    assert set(build_run_config_map(make_plan())["data"]) == {"run.json", "serving.yaml"}
