"""Built manifests, compared whole with tests/golden/manifests; ``make generate`` rewrites them.

Run with ``UPDATE_GOLDEN=1`` to accept a change, and review the difference.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import make_plan, make_spec

from finetune_operator.objects.claim import build_claim
from finetune_operator.objects.export_job import build_export_job
from finetune_operator.objects.headless_service import build_headless_service
from finetune_operator.objects.prepare_job import build_prepare_job
from finetune_operator.objects.run_config_map import build_run_config_map
from finetune_operator.objects.score_job import build_score_job
from finetune_operator.objects.train_job import build_train_job
from finetune_operator.plan import Platform, TrainingPlan
from finetune_operator.settings import Settings

GOLDEN = Path(__file__).parents[3] / "golden" / "manifests"

EVERYTHING = make_spec(
    model={
        "uri": "image://example.test/model:1//small.gguf",
        "chatTemplate": {"configMapKeyRef": {"name": "templates", "key": "jinja"}},
        "secretRef": {"name": "hub"},
    },
    data={
        "train": [
            {"name": "rows", "uri": "pvc://datasets/rows.jsonl", "format": "Instruction"},
            {"name": "more", "uri": "pvc://work/more"},
            {"name": "hub", "uri": "hf://datasets/org/rows"},
            {"name": "far", "uri": "s3://rows/a/", "s3": {"secretRef": {"name": "s3-read"}}},
            {"name": "also-far", "uri": "s3://rows/b", "s3": {"secretRef": {"name": "s3-read"}}},
        ],
        "eval": [{"name": "held", "uri": "image://example.test/model:1//held.jsonl"}],
        "general": [{"name": "everyday", "uri": "pvc://datasets/everyday.jsonl"}],
        "augment": {"image": "example.test/paraphrase:1", "args": ["--seed=1"]},
    },
    workers={
        "count": 3,
        "ranksPerWorker": None,
        "gpusPerWorker": 4,
        "resources": {"requests": {"cpu": "4"}, "limits": {"memory": "32Gi"}},
        "nodeSelector": {"example.test/pool": "a100"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "podAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 10,
                        "podAffinityTerm": {"topologyKey": "rack", "matchLabels": {"a": "b"}},
                    }
                ]
            }
        },
        "priorityClassName": "high",
        "imagePullSecrets": [{"name": "pull"}],
        "schedulerName": "gangs",
        "serviceAccountName": "training",
        "sharedMemory": "8Gi",
        "terminationGracePeriodSeconds": 300,
        "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
    },
    training={"globalBatchSize": 24},
    evaluation={
        "generation": {
            "scorers": [
                {
                    "name": "politeness",
                    "image": "example.test/politeness:2",
                    "command": ["python", "-m", "politeness"],
                    "args": ["--strict"],
                    "resources": {"limits": {"memory": "1Gi"}},
                },
                {"name": "length", "image": "example.test/length:1"},
            ],
            "scorerDeadlineSeconds": 300,
        }
    },
    prepare={
        "resources": {"requests": {"memory": "4Gi"}},
        "nodeSelector": {"example.test/pool": "cpu"},
        "tolerations": [{"key": "batch", "operator": "Exists"}],
        "priorityClassName": "low",
    },
    export={
        "resources": {"limits": {"memory": "8Gi"}},
        "nodeSelector": {"example.test/pool": "memory"},
        "tolerations": [{"key": "large", "operator": "Equal", "value": "yes"}],
        "priorityClassName": "middle",
    },
    storage={"claimRef": None, "size": "50Gi", "className": "shared"},
    output={
        "uri": "pvc://results/support-bot",
        "formats": ["Adapter", "Merged", "GGUF"],
        "gguf": {"type": "Q8_0"},
        "destinations": [
            {
                "name": "registry",
                "oci": {"image": "example.test:5000/bot:1", "secretRef": {"name": "push"}},
            },
            {
                "name": "hub",
                "format": "Adapter",
                "hub": {"repository": "team/bot", "secretRef": {"name": "write"}},
            },
            {"name": "near", "oci": {"image": "near.test/bot:1", "plainHTTP": "Enabled"}},
            {"name": "bucket", "s3": {"uri": "s3://out/bot", "secretRef": {"name": "s3-write"}}},
        ],
    },
)
HUB = Platform(Settings(trainer_image="example.test/t:2", hf_endpoint="http://hub.test"))
SMALL, FULL = make_plan(), make_plan(EVERYTHING, platform=HUB)

CASES: dict[str, tuple[Callable[..., Any], TrainingPlan, tuple[Any, ...]]] = {
    "prepare-job": (build_prepare_job, SMALL, (0,)),
    "prepare-job-everything": (build_prepare_job, FULL, (1,)),
    "train-job": (build_train_job, SMALL, (0,)),
    "train-job-everything": (build_train_job, FULL, (2,)),
    "score-job-everything": (build_score_job, FULL, (1, 2)),
    "export-job": (build_export_job, SMALL, (0, 2)),
    "export-job-everything": (build_export_job, FULL, (0, None)),
    "headless-service": (build_headless_service, SMALL, ()),
    "run-config-map": (build_run_config_map, SMALL, ()),
    "run-config-map-everything": (build_run_config_map, FULL, ()),
    "claim": (build_claim, FULL, ()),
}


@pytest.mark.parametrize("name", CASES)
def test_the_manifest_is_as_reviewed(name: str) -> None:
    build, plan, arguments = CASES[name]
    manifest = build(plan, *arguments)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(yaml.safe_dump(manifest, sort_keys=True))
    assert manifest == yaml.load(path.read_text(), yaml.CSafeLoader)


def test_no_claim_is_built_where_the_job_brings_its_own() -> None:
    assert build_claim(SMALL) is None


def _pods() -> list[Any]:
    jobs = [CASES[name] for name in CASES if "-job" in name]
    return [build(plan, *given)["spec"]["template"]["spec"] for build, plan, given in jobs]


@pytest.mark.parametrize("pod", _pods())
def test_every_pod_fits_the_restricted_profile(pod: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
        assert forbidden not in pod
    for container in (*pod["containers"], *pod.get("initContainers", ())):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    kinds = {next(name for name in volume if name != "name") for volume in pod["volumes"]}
    allowed = {"emptyDir", "configMap", "secret", "projected", "persistentVolumeClaim", "image"}
    assert kinds <= allowed


@pytest.mark.parametrize(
    "terms",
    [
        pytest.param([], id="placed anywhere else"),
        pytest.param(
            [{"matchExpressions": [{"key": "pool", "operator": "In", "values": [name]}]}
             for name in ("a", "b")],
            id="placed by the user, by alternatives",
        ),
    ],
)  # fmt: skip
def test_a_gang_is_not_placed_on_nodes_that_were_lost(terms: list[Any]) -> None:
    wish = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    workers = {"affinity": {"nodeAffinity": wish} if terms else None}
    plan = make_plan(make_spec(workers=workers))
    job = build_train_job(plan, 1, avoid=("n1", "n2"))
    affinity = job["spec"]["template"]["spec"]["affinity"]
    required = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    away = [
        {"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in ("n1", "n2")
    ]
    assert required["nodeSelectorTerms"] == [{**t, "matchFields": away} for t in terms or [{}]]
    assert "podAntiAffinity" in affinity
    assert "nodeAffinity" not in str(build_train_job(make_plan(), 1))


def test_a_gang_would_rather_not_go_where_one_failed_and_goes_there_if_it_must() -> None:
    wish = {"weight": 7, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    affinity = {"nodeAffinity": {preferred: [wish]}}
    plan = make_plan(make_spec(workers={"affinity": affinity}))
    job = build_train_job(plan, 1, suspect=("n1",))
    away = [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]
    assert job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"] == {
        preferred: [wish, {"weight": 100, "preference": {"matchFields": away}}]
    }


def test_a_scorer_sees_the_answers_and_nothing_else() -> None:
    pod = build_score_job(FULL, 1, 2)["spec"]["template"]["spec"]
    for container in pod["containers"]:
        tmp, answers = container["volumeMounts"]
        assert answers["readOnly"] and answers["subPath"].endswith("/attempts/2/answers.jsonl")
        assert tmp["name"] == f"tmp-{container['name']}"
        assert "secret" not in str(pod["volumes"])


def test_a_container_for_the_rows_sees_rows_and_nothing_else() -> None:
    pod = build_prepare_job(FULL, 3)["spec"]["template"]["spec"]
    fetch, augment = pod["initContainers"]
    (main,) = pod["containers"]
    assert {**main, "name": "fetch", "args": ["fetch"]} == fetch
    paths = {mount["mountPath"]: mount.get("subPath", "") for mount in augment["volumeMounts"]}
    assert set(paths) == {"/tmp", "/rows/in", "/rows/out"}
    assert paths["/rows/in"].endswith("/augment/3/in")
    assert paths["/rows/out"].endswith("/augment/3/out")
    told = {each["name"]: each.get("value") for each in main["env"]}
    assert told["FINETUNE_AUGMENTED"] == "/workspace/augment/3"
    assert "FINETUNE_AUGMENTED" not in str(build_prepare_job(SMALL, 0))


def _shared_data(plan: TrainingPlan) -> list[Any]:
    pod = build_prepare_job(plan, 0)["spec"]["template"]["spec"]
    (main,) = pod["containers"]
    mounts = [each for each in main["volumeMounts"] if each["mountPath"] == "/shared-data"]
    told = {"name": "FINETUNE_SHARED_DATA", "value": "/shared-data"}
    assert (told in main["env"]) is bool(mounts)
    return mounts


def test_jobs_share_prepared_data_on_a_claim_that_outlives_them() -> None:
    folder = {"name": "workspace", "mountPath": "/shared-data", "subPath": "team-a/shared-data"}
    assert _shared_data(SMALL) == [folder]
    assert not _shared_data(FULL), "its claim goes with the job"
    rows = {"train": [{"name": "rows", "uri": "pvc://work/rows.jsonl"}]}
    assert not _shared_data(make_plan(make_spec(data={**rows, "reuse": "Never"})))


def test_no_other_container_sees_the_shared_data() -> None:
    others = [pod for pod in _pods() if "FINETUNE_SHARED_DATA" not in str(pod["containers"])]
    assert len(others) >= 3
    assert not [pod for pod in others if "shared-data" in str(pod)]
    rows = {"train": [{"name": "rows", "uri": "pvc://work/rows.jsonl"}]}
    plan = make_plan(make_spec(data={**rows, "augment": {"image": "example.test/more:1"}}))
    fetch, augment = build_prepare_job(plan, 0)["spec"]["template"]["spec"]["initContainers"]
    assert "shared-data" in str(fetch)
    assert "shared-data" not in str(augment)


def test_only_training_pods_ask_for_gpus() -> None:
    wanting = [pod for pod in _pods() if "nvidia.com/gpu" in str(pod["containers"][0]["resources"])]
    assert len(wanting) == 1
    assert wanting[0]["subdomain"] == "demo"


def test_an_unchanged_plan_makes_the_same_bytes() -> None:
    assert build_run_config_map(make_plan()) == build_run_config_map(make_plan())


@pytest.mark.parametrize(
    ("job", "pool", "taint", "priority"),
    [
        (build_prepare_job(FULL, 0), "cpu", {"key": "batch", "operator": "Exists"}, "low"),
        (
            build_train_job(FULL, 0),
            "a100",
            {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
            "high",
        ),
        (
            build_score_job(FULL, 0, 0),
            "memory",
            {"key": "large", "operator": "Equal", "value": "yes"},
            "middle",
        ),
        (
            build_export_job(FULL, 0, 0),
            "memory",
            {"key": "large", "operator": "Equal", "value": "yes"},
            "middle",
        ),
    ],
    ids=["prepare", "train", "score", "export"],
)
def test_the_pods_of_each_stage_go_where_it_says(
    job: dict[str, Any], pool: str, taint: dict[str, str], priority: str
) -> None:
    pod = job["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"example.test/pool": pool}
    assert pod["tolerations"] == [taint]
    assert pod["priorityClassName"] == priority


def test_without_a_wish_pods_go_anywhere() -> None:
    for job in (build_prepare_job(SMALL, 0), build_export_job(SMALL, 0, 0)):
        pod = job["spec"]["template"]["spec"]
        assert not pod.keys() & {"nodeSelector", "tolerations", "priorityClassName"}
