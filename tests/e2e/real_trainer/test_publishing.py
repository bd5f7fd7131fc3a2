"""From a bucket and a claim to scores, ratings by people, registry and bucket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from e2e.gangs import ONE_CPU, ROWS, WORK_SECONDS
from e2e.jobs import Jobs, conditions
from e2e.kubectl import Kubectl, wait_for
from e2e.place import chat_row
from e2e.s3 import start_s3
from gguf_judge import llama_cpp

from local_cluster import LocalCluster

if TYPE_CHECKING:
    from e2e.fixtures import Images

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

SCORER = """
import json, os
rows = [json.loads(line) for line in open(os.environ["ANSWERS"])]
def met(side):
    return {"met": sum(row[side]["text"] == row["reference"] for row in rows) / len(rows)}
json.dump({side: met(side) for side in ("tuned", "base")}, open(os.environ["SCORES"], "w"))
"""


def test_answers_are_scored_and_rated_by_people_before_the_model_is_published(
    jobs: Jobs,
    cluster: LocalCluster,
    kubectl: Kubectl,
    files: Path,
    place: str,
    images: Images,
    tmp_path: Path,
) -> None:
    """One answer to every question, so that a tiny model can learn it by heart. Half of the rows
    come from a bucket, and the result goes to one."""
    registry = registry_for_pods(kubectl)
    access = {
        "endpoint": start_s3(cluster, kubectl, place, "work", files),
        "secretRef": {"name": "s3-key"},
    }
    bring = ("create", "configmap", "asked-ratings", f"--from-file={tmp_path}")
    (tmp_path / "ratings-ann.json").write_text(
        json.dumps({"bundle": "sha256:of-another-job", "rater": "Ann", "ratings": {"1": "A"}})
    )
    kubectl(*bring, namespace=place)
    rows = [chat_row(f"What is gang {n}?", "A set of pods.") for n in range(ROWS)]
    (files / "same.jsonl").write_text("\n".join(rows[: ROWS // 2]))
    for bucket in ("rows", "models"):
        (files / "s3" / bucket).mkdir()
        (files / "s3" / bucket).chmod(0o777)
    (files / "s3/rows/same.jsonl").write_text("\n".join(rows[ROWS // 2 :]))
    jobs.apply(
        "asked",
        steps=60,
        data={"train": [{"name": "rows", "uri": "pvc://work/same.jsonl", "weight": "3"},
                        {"name": "far", "uri": "s3://rows", "weight": "1", "s3": access}],
              "evalFraction": "0.2", "sequenceLength": 64,
              "report": {"terms": [{"name": "animals", "words": ["zebra"]}]}},
        method={"full": {}},
        training={"learningRate": "1e-2"},
        workers={"resources": ONE_CPU},
        deepspeed={"zeroStage": 3},
        evaluation={"generation": {"metrics": ["BLEU", "ChrF", "RougeL", "ExactMatch", "Regex"],
                                   "regex": "pods[.]$", "maxNewTokens": 24, "scorers": [
            {"name": name, "image": images.trainer, "command": ["python", "-c", text],
             "resources": ONE_CPU}
            for name, text in (("met", SCORER), ("broken", "raise SystemExit('no judge')"))
        ]}, "human": {}},
        gate={"human": {"minWinRate": "0.9", "minRatings": 1},
              "scorers": [{"name": "met", "metric": "met", "minImprovement": "0.01"}]},
        output={"formats": ["Merged", "GGUF"], "destinations": [
            {"name": "registry", "oci": {
                "image": f"{registry}/results/asked:v1", "plainHTTP": "Enabled"}},
            {"name": "bucket", "s3": {"uri": "s3://models/asked", **access}},
            {"name": "file", "format": "GGUF", "s3": {"uri": "s3://models/gguf", **access}},
        ]},
    )  # fmt: skip
    wait_for(
        "ratings that do not fit",
        lambda: jobs.reason("asked") in ("RatingsInvalid", "GateFailed", "Failed"),
        WORK_SECONDS,
    )
    status = jobs.status("asked")
    assert "key ratings-ann.json: it rates another bundle" in status["pendingReason"]
    assert "artifact" not in status and jobs.living_pods("asked") == set()
    rate(files, status, tmp_path)
    kubectl("delete", "configmap", "asked-ratings", namespace=place)
    kubectl(*bring, namespace=place)
    status = jobs.wait_phase("asked", "Succeeded", "Failed", seconds=WORK_SECONDS)
    assert status["phase"] == "Succeeded", status.get("failure")
    assert status["humanEvaluation"]["winRate"] == "1" and status["exportAttempt"] == 1
    assert "the win rate is 1" in conditions(status)["GatePassed"]["message"]
    metrics, baseline = status["metrics"], status["metrics"]["baseline"]
    scores = {"bleu", "chrF", "rougeL", "exactMatch", "regexMatch", "tokenAccuracy", "evalLoss"}
    assert metrics.keys() >= scores and baseline.keys() >= scores
    print({name: (baseline[name], metrics[name]) for name in scores})
    assert float(baseline["exactMatch"]) == 0.0 < float(metrics["exactMatch"])
    assert float(baseline["chrF"]) < float(metrics["chrF"])

    met, broken = status["scorers"]
    assert float(met["tuned"]["met"]) == float(metrics["exactMatch"]) and met["base"]["met"] == "0"
    assert broken["failure"] == "ended with exit code 1: no judge"
    assert conditions(status)["Scored"]["reason"] == "ScorerFailed"
    assert "met of scorer met is " in conditions(status)["GatePassed"]["message"]
    assert "Job/asked-s1" not in jobs.children("asked", "jobs")

    page = files / status["logs"]["answersPath"]
    published = files / status["artifact"]["path"] / "merged"
    table = [json.loads(line) for line in page.with_suffix(".jsonl").read_text().splitlines()]
    assert 1 <= len(table) <= ROWS // 2
    assert all(row["reference"] == "A set of pods." for row in table)
    met = sum(row["tuned"]["text"] == row["reference"] for row in table)
    assert met / len(table) == pytest.approx(float(metrics["exactMatch"]), abs=1e-5)
    assert (published / "answers.html").read_text() == page.read_text()
    assert "answers.html" in (published / "README.md").read_text()

    warning = "no row has a term of the list animals"
    assert warning in status["data"]["warnings"]
    assert "worth a look: " in conditions(status)["DatasetValid"]["message"]
    report = (files / status["data"]["reportPath"]).read_text()
    assert warning in report
    assert (published / "data-report.html").read_text() == report
    assert warning in (published / "README.md").read_text()

    artifact = status["artifact"]
    assert artifact["smokeTest"]["answer"] and artifact["smokeTest"]["tokens"] >= 1
    assert artifact["smokeTest"]["answer"] in conditions(status)["Published"]["message"]
    serving = files / artifact["servingPath"]
    applied = kubectl("apply", "--dry-run=server", "-f", str(serving), namespace=place)
    assert "asked-serving" in applied
    told = kubectl.json("get", "configmap", "asked-run", namespace=place)["data"]
    assert told["serving.yaml"] == serving.read_text()

    near, far = status["data"]["sources"]
    epoch = near["drawn"] + far["drawn"]
    assert abs(near["drawn"] - 0.75 * epoch) <= 0.5
    assert far["kept"] + far["notDrawn"] <= ROWS // 2 and far["notDrawn"] > 0

    pushed, in_bucket, _ = artifact["destinations"]
    assert in_bucket["uri"] == "s3://models/asked"
    held = files / "s3/models/asked"
    names = {str(path.relative_to(published)) for path in published.rglob("*") if path.is_file()}
    assert {str(path.relative_to(held)) for path in held.rglob("*") if path.is_file()} == names
    assert all((held / name).read_bytes() == (published / name).read_bytes() for name in names)
    assert (pushed["name"], pushed["uri"]) == ("registry", f"image://{registry}/results/asked:v1")
    reference = f"localhost:5000/results/asked@{pushed['digest']}"  # as nodes know it
    (question,) = table[0]["prompt"]
    said = asked_in_a_pod(kubectl, place, images.trainer, reference, question["content"])
    assert said == table[0]["tuned"]["text"], "the image says what the trained model said"
    file = files / artifact["path"] / "gguf/model.gguf"
    assert (files / "s3/models/gguf/model.gguf").read_bytes() == file.read_bytes()
    with llama_cpp(file, 256) as judge:
        assert judge.answer(question["content"], 24) == said, "and so does llama.cpp"


def rate(files: Path, status: dict[str, Any], folder: Path) -> None:
    """A rater who likes the tuned model's answers: ratings from the key, which raters never see."""
    people = status["humanEvaluation"]
    bundle = files / people["uri"].removeprefix("pvc://work/")
    assert {path.name for path in bundle.iterdir()} == {
        "bundle.jsonl",
        "rate.html",
        "manifest.json",
    }
    items = [json.loads(line) for line in (bundle / "bundle.jsonl").read_text().splitlines()]
    assert len(items) == people["items"] and people["bundle"] in (bundle / "rate.html").read_text()
    key = json.loads((bundle.parent.parent / "attempts/0/rating-key.json").read_text())
    marks = {str(each["id"]): "A" if each["id"] in key["tunedIsA"] else "B" for each in items}
    content = {"bundle": people["bundle"], "rater": "Ann", "ratings": marks}
    (folder / "ratings-ann.json").write_text(json.dumps(content))


def registry_for_pods(kubectl: Kubectl) -> str:
    """host:port of the cluster's registry: it listens on every node."""
    addresses = kubectl.json("get", "nodes")["items"][0]["status"]["addresses"]
    node = next(each["address"] for each in addresses if each["type"] == "InternalIP")
    return f"{node}:5000"


def asked_in_a_pod(
    kubectl: Kubectl, namespace: str, trainer: str, model: str, question: str
) -> str:
    """The answer of a model image, mounted into a pod of the trainer image."""
    closed = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "served"},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "ask",
                "image": trainer,
                "args": ["answer", "--model=/model", f"--prompt={question}",
                         "--max-new-tokens=24"],
                "env": [{"name": "HOME", "value": "/tmp"}],
                "resources": ONE_CPU,
                "securityContext": closed,
                "volumeMounts": [{"name": "model", "mountPath": "/model", "readOnly": True},
                                 {"name": "tmp", "mountPath": "/tmp"}],
            }],
            "volumes": [
                {"name": "model", "image": {"reference": model, "pullPolicy": "IfNotPresent"}},
                {"name": "tmp", "emptyDir": {}},
            ],
        },
    }  # fmt: skip
    kubectl.apply(pod, namespace=namespace)

    def ended() -> Any:
        phase = kubectl.json("get", "pod", "served", namespace=namespace)["status"].get("phase")
        return phase if phase in ("Succeeded", "Failed") else None

    phase = wait_for("the answer", ended, WORK_SECONDS)
    log = kubectl("logs", "served", namespace=namespace)
    assert phase == "Succeeded", log
    (line,) = [each for each in log.splitlines() if each.startswith('{"id"')]
    return str(json.loads(line)["answer"])
