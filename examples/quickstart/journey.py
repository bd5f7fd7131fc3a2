"""The whole way, from programs and images to a model that was asked questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kubernetes.client.exceptions import ApiException

from local_cluster.images import build_model, build_operator, build_trainer
from quickstart import answers, dataset, follow, images, manifests, proof, release, screen
from quickstart.display import Display
from quickstart.errors import QuickstartError
from quickstart.follow import Follower
from quickstart.kube import Kube, Object, refusal
from quickstart.manifests import API_VERSION, KIND, MARK, Images
from quickstart.options import NAMESPACE, Options
from quickstart.stages import Reporter, Stages, Work
from quickstart.targets import Target

GONE = 180.0
"""Seconds that an earlier job may take to disappear."""


@dataclass
class Journey:
    """One run. Attributes without a value are filled by the stage that is named for them."""

    options: Options
    target: Target
    display: Display
    built: Mapping[str, str] | None = None
    references: Images | None = None
    kube: Kube | None = None
    answers: answers.Answers | None = None

    def run(self) -> screen.Outcome:
        """Every stage; those that need nothing of each other side by side."""
        self.target.look()
        with self.display:
            stages = Stages(self.display)
            programs = stages.add("Programs", self.programs)
            built = stages.add("Images", self.images)
            uploaded = stages.add("Registry", self.upload, after=[programs, built])
            cluster = stages.add("Cluster", self.cluster, after=[uploaded])
            operator = stages.add("Operator", self.operator, after=[cluster])
            submitted = stages.add("Submit", self.submit, after=[operator])
            prepared = stages.add("Prepare", self.until(follow.prepared), after=[submitted])
            trained = stages.add("Train", self.train, after=[prepared])
            exported = stages.add("Export", self.until(follow.succeeded), after=[trained])
            stages.add("Answer", self.ask, after=[exported])
            stages.wait()
        return self.outcome()

    def programs(self, report: Reporter) -> None:
        self.target.programs(report)

    def images(self, report: Reporter) -> None:
        self.built = {
            "operator": build_operator(report),
            "model": build_model(report),
            "data": images.build_data(self.options, report),
            "trainer": build_trainer(report),
        }

    def upload(self, report: Reporter) -> None:
        assert self.built is not None  # noqa: S101 - `images` ran
        names = list(self.built)
        pulled = self.target.upload([self.built[name] for name in names], report)
        self.references = Images(**dict(zip(names, pulled, strict=True)))

    def cluster(self, report: Reporter) -> None:
        self.kube = self.target.up(report)

    def operator(self, report: Reporter) -> None:
        report("helm upgrade --install")
        release.install(self.target.helm(), self._references)

    def submit(self, report: Reporter) -> str:
        """Apply namespace, claim and job; what an earlier run left decides what else to do."""
        kube = self._kube
        self._apply(manifests.namespace())
        claim, job = manifests.claim_and_job(self.options, self._references)
        earlier = kube.get(API_VERSION, KIND, self.options.name, NAMESPACE)
        if earlier is not None:
            status = earlier.get("status", {})
            if _mark(earlier) == _mark(job):
                if self.options.reuse and follow.succeeded(status):
                    return "shows the finished job of an earlier run"
                if not follow.finished(status):
                    return "goes on with the job of an earlier start"
            self._remove(earlier, claim, report)
        self._apply(claim)
        self._apply(job)
        return f"{NAMESPACE}/{self.options.name}"

    def train(self, report: Reporter) -> None:
        follower = Follower(self._kube, self.options.name)
        status = follower.until(follow.training, report)
        if self.target.reaches_pods() and not follow.trained(status):
            gang = f"{self.options.name}-a{status['attempt']}"
            prefix = "batch.kubernetes.io/job"
            selector = f"{prefix}-name={gang},{prefix}-completion-index=0"
            for pod in self._kube.list("v1", "Pod", NAMESPACE, selector):
                report.line(f"Live metrics: http://{pod['status']['podIP']}:9400/metrics")
        follower.until(follow.trained, report)

    def until(self, reached: Callable[[follow.Status], bool]) -> Work:
        """The work of a stage that only follows the job."""

        def work(report: Reporter) -> str:
            status = Follower(self._kube, self.options.name).until(reached, report)
            return follow.summary(status) if reached is follow.prepared else ""

        return work

    def ask(self, report: Reporter) -> None:
        self.answers = answers.ask(
            self._kube,
            self._job(),
            self._references.trainer,
            images.held_out(self.options),
            report,
        )

    def outcome(self) -> screen.Outcome:
        assert self.answers is not None  # noqa: S101 - `ask` ran
        job = self._job()
        status, claim = job["status"], job["spec"]["storage"]["claimRef"]["name"]
        questions = dataset.questions(images.held_out(self.options))
        base_loss, tuned_loss = follow.held_out_losses(status)
        folder = f"{NAMESPACE}/{job['metadata']['uid']}/output/merged"
        bound = self._kube.get("v1", "PersistentVolumeClaim", claim, NAMESPACE) or {}
        volume = self.target.host_folder(bound.get("spec", {}).get("volumeName", ""))
        speed = status.get("progress", {}).get("tokensPerSecond")
        return screen.Outcome(
            name=self.options.name,
            times=self.display.times(),
            total_seconds=self.display.elapsed,
            proof=proof.Proof(
                questions=len(questions),
                base_loss=base_loss,
                tuned_loss=tuned_loss,
                base_accuracy=proof.accuracy(questions, self.answers.base),
                tuned_accuracy=proof.accuracy(questions, self.answers.tuned),
                bar=proof.BAR,
            ),
            questions=questions,
            asked=self.options.questions,
            answers=self.answers,
            tokens_per_second=float(speed) if speed else None,
            claim=claim,
            folder=folder,
            host_folder=volume / folder if volume else None,
            metrics=self._metrics(),
            shell=self.target.shell(),
            kubectl=self.target.kubectl(),
            again=self.target.again(),
            farewell=self.target.farewell(),
        )

    # --- helpers -------------------------------------------------------------------------------

    @property
    def _kube(self) -> Kube:
        assert self.kube is not None  # noqa: S101 - `cluster` ran
        return self.kube

    @property
    def _references(self) -> Images:
        assert self.references is not None  # noqa: S101 - `upload` ran
        return self.references

    def _job(self) -> Object:
        job = self._kube.get(API_VERSION, KIND, self.options.name, NAMESPACE)
        if job is None:
            raise QuickstartError(f"The FineTuneJob {NAMESPACE}/{self.options.name} was deleted.")
        return job

    def _apply(self, manifest: Object) -> None:
        try:
            self._kube.apply(manifest)
        except ApiException as error:
            name = f"{manifest['kind']} {manifest['metadata']['name']}"
            raise QuickstartError(f"The cluster refused {name}: {refusal(error)}") from error

    def _remove(self, job: Object, claim: Object, report: Reporter) -> None:
        """Delete an earlier job with its claim, and wait: a claim in use goes last."""
        name, claim_name = job["metadata"]["name"], claim["metadata"]["name"]
        report(f"deleting the earlier job {name}")
        self._kube.delete(API_VERSION, KIND, name, NAMESPACE)
        self._kube.delete("v1", "PersistentVolumeClaim", claim_name, NAMESPACE)
        deadline = time.monotonic() + GONE
        while self._kube.get(API_VERSION, KIND, name, NAMESPACE) or self._kube.get(
            "v1", "PersistentVolumeClaim", claim_name, NAMESPACE
        ):
            if time.monotonic() > deadline:
                raise QuickstartError(
                    f"The earlier job {name} has not gone within {GONE:.0f} s: see `kubectl "
                    f"describe finetunejob {name} --namespace {NAMESPACE}`, or take another --name."
                )
            time.sleep(1.0)

    def _metrics(self) -> str:
        """The operator's metrics outlive the pods of the job."""
        if self.target.reaches_pods():
            selector = f"app.kubernetes.io/name={release.RELEASE}"
            for pod in self._kube.list("v1", "Pod", release.SYSTEM_NAMESPACE, selector):
                for port in pod["spec"]["containers"][0].get("ports", ()):
                    if port.get("name") == "metrics" and (address := pod["status"].get("podIP")):
                        return f"http://{address}:{port['containerPort']}/metrics"
        return (
            f"{self.target.kubectl()} port-forward --namespace {release.SYSTEM_NAMESPACE} "
            f"deployment/{release.RELEASE} 9402:metrics"
        )


def _mark(job: Object) -> str | None:
    mark: str | None = job["metadata"].get("annotations", {}).get(MARK)
    return mark
