"""The two kinds of cluster that the quickstart runs on: ours, and one that exists already."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from local_cluster import LocalCluster
from local_cluster.binaries import Binaries
from local_cluster.images import push
from local_cluster.registry import repository_and_tag, tags
from local_cluster.seed import refresh_seed
from quickstart import release, room
from quickstart.errors import QuickstartError
from quickstart.images import DATA_REPOSITORY
from quickstart.kube import Kube, refusal
from quickstart.options import DEFAULT_CLUSTER, NAMESPACE, Foreign, Options
from quickstart.stages import Reporter

NODES = 3
IMAGE_VOLUMES = (1, 35)
"""First Kubernetes version that mounts images as volumes."""


class Target(Protocol):
    """A cluster as the journey needs it; methods in the order of their use."""

    def look(self) -> None:
        """Refuse at once what would fail after everything was built."""

    def programs(self, report: Reporter) -> None:
        """Build what this target needs and the cache lacks."""

    def upload(self, images: Sequence[str], report: Reporter) -> list[str]:
        """Bring images to the cluster's registry; their references as nodes pull them."""

    def up(self, report: Reporter) -> Kube:
        """Bring the cluster up, if it is ours."""

    def helm(self) -> list[str]:
        """The helm command with its flags for this cluster."""

    def shell(self) -> list[str]:
        """Lines to type before commands with `kubectl` work on this cluster."""

    def kubectl(self) -> str:
        """How commands to this cluster begin."""

    def again(self) -> str:
        """How the quickstart is started on this cluster."""

    def host_folder(self, volume: str) -> Path | None:
        """Where this host sees the PersistentVolume ``volume``; None: it does not."""

    def reaches_pods(self) -> bool:
        """Whether this host routes to pod addresses."""

    def farewell(self) -> str:
        """How to take everything away again."""


def target(options: Options) -> Target:
    return Existing(options.foreign) if options.foreign else Local(options.cluster)


class Local:
    """The cluster of ``local_cluster``, in a network namespace of this machine."""

    def __init__(self, name: str) -> None:
        self._cluster = LocalCluster(name)

    def look(self) -> None:
        folder = self._cluster.cache.root
        # Once anything is built, what is left to build asks for its own share.
        if not folder.joinpath("containers").exists() and self._cluster.binaries.missing():
            room.require(folder)

    def programs(self, report: Reporter) -> None:
        def said(stage: str, detail: str) -> None:
            report(f"{stage}: {detail}")

        self._cluster.prepare(said)
        self._cluster.binaries.build(("helm",), said)

    def upload(self, images: Sequence[str], report: Reporter) -> list[str]:
        # Tags are hashes of content: one that is there is the same image.
        present = set(tags(self._cluster.cache))
        for image in images:
            if ":".join(repository_and_tag(image)) not in present:
                report(f"pushing {image}")
                self._cluster.push(image)
        if not self._cluster.exists():
            # Unpacked once for all nodes to come; nodes that run already pull what they lack.
            # Without the data: it is tiny, and other clusters' seed is then the same.
            heavy = [image for image in images if DATA_REPOSITORY not in image]
            refresh_seed(self._cluster.cache, self._cluster.binaries, heavy, report)
        return list(images)

    def up(self, report: Reporter) -> Kube:
        self._cluster.up(
            None if self._cluster.exists() else NODES,
            report=lambda stage, detail: report(f"{stage}: {detail}"),
        )
        return Kube(self._cluster.kubeconfig)

    def helm(self) -> list[str]:
        helm = self._cluster.binaries.path("helm")
        return [str(helm), "--kubeconfig", str(self._cluster.kubeconfig)]

    def shell(self) -> list[str]:
        programs = self._cluster.binaries.path("kubectl").parent
        return [f"export KUBECONFIG={self._cluster.kubeconfig} PATH=$PATH:{programs}"]

    def kubectl(self) -> str:
        return "kubectl"

    def again(self) -> str:
        default = self._cluster.name == DEFAULT_CLUSTER
        return "make quickstart" if default else f"CLUSTER={self._cluster.name} make quickstart"

    def host_folder(self, volume: str) -> Path | None:
        folder = self._cluster.paths.volumes / volume
        return folder if folder.is_dir() else None

    def reaches_pods(self) -> bool:
        return True

    def farewell(self) -> str:
        default = LocalCluster().name == self._cluster.name
        name = "" if default else f' ARGS="--name {self._cluster.name}"'
        return f"make cluster-down{name}"


class Existing:
    """A cluster that somebody else runs, by a context of the user's kubeconfig."""

    def __init__(self, foreign: Foreign) -> None:
        self._foreign = foreign
        self._binaries = Binaries()
        self._kube = Kube(None, foreign.context)
        self._version = (0, 0)

    def look(self) -> None:
        try:
            self._look()
        except ApiException as error:
            raise QuickstartError(
                f"The cluster of context {self._foreign.context} refuses to be looked at: "
                f"{refusal(error)}"
            ) from error
        except (HTTPError, OSError) as error:
            raise QuickstartError(
                f"The cluster of context {self._foreign.context} does not answer: {error}"
            ) from error

    def _look(self) -> None:
        major, minor = self._version = self._kube.version()
        if (major, minor) < IMAGE_VOLUMES:
            raise QuickstartError(
                f"The cluster of context {self._foreign.context} runs Kubernetes {major}.{minor}, "
                "and models travel as image volumes, which need 1.35: use a newer cluster, or a "
                "manifest with pvc:// sources (examples/README.md)."
            )
        name = self._foreign.storage_class
        if name and self._kube.get("storage.k8s.io/v1", "StorageClass", name) is None:
            raise QuickstartError(
                f"The cluster has no StorageClass {name}: set STORAGE_CLASS to one of "
                "`kubectl get storageclasses` whose volumes are ReadWriteMany."
            )
        release.refuse_another(self._kube, f"The cluster of context {self._foreign.context}")

    def programs(self, report: Reporter) -> None:
        if shutil.which("helm") is None:
            self._binaries.build(("helm",), lambda stage, detail: report(f"{stage}: {detail}"))

    def upload(self, images: Sequence[str], report: Reporter) -> list[str]:
        pushed = []
        for image in images:
            repository, tag = repository_and_tag(image)
            reference = f"{self._foreign.registry}/{repository}:{tag}"
            push(image, reference, report, insecure=self._foreign.plain_http)
            pushed.append(reference)
        return pushed

    def up(self, report: Reporter) -> Kube:
        report("Kubernetes {}.{}".format(*self._version))
        return self._kube

    def helm(self) -> list[str]:
        helm = shutil.which("helm") or str(self._binaries.path("helm"))
        return [helm, "--kube-context", self._foreign.context]

    def shell(self) -> list[str]:
        named = os.environ.get("KUBECONFIG")
        return [f"export KUBECONFIG={named}"] if named else []

    def kubectl(self) -> str:
        return f"kubectl --context {self._foreign.context}"

    def again(self) -> str:
        settings = [f"CONTEXT={self._foreign.context}", f"REGISTRY={self._foreign.registry}"]
        if self._foreign.plain_http:
            settings.append("REGISTRY_PLAIN_HTTP=1")
        if self._foreign.storage_class:
            settings.append(f"STORAGE_CLASS={self._foreign.storage_class}")
        return " ".join([*settings, "make quickstart"])

    def host_folder(self, volume: str) -> Path | None:
        return None

    def reaches_pods(self) -> bool:
        return False

    def farewell(self) -> str:
        return (
            f"{self.kubectl()} delete namespace {NAMESPACE} && helm --kube-context "
            f"{self._foreign.context} uninstall {release.RELEASE} "
            f"--namespace {release.SYSTEM_NAMESPACE}"
        )
