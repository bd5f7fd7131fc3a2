"""The Kubernetes, etcd, containerd, CoreDNS and Helm programs, built from pinned Go modules.

One go.mod per family: etcd, containerd and CoreDNS need other versions of common modules than
Kubernetes does. A family's folder in the cache carries the hash of everything that decides what
is in it, so a changed pin builds anew and an unchanged one never does.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from local_cluster.errors import LocalClusterError
from local_cluster.layout import Cache, free_disk, locked
from local_cluster.toolchain import GO_SOURCES, find_go

Report = Callable[[str, str], None]


def silent(_stage: str, _detail: str) -> None:
    """A `Report` that nobody reads."""


# Measured for all families from nothing: 3.9 GB of modules, 5.6 GB of build cache, the programs.
BUILD_DISK = 11 * 2**30


@dataclass(frozen=True)
class Family:
    """Programs that are built from one go.mod."""

    name: str
    tools: dict[str, str]  # program -> Go package
    version_module: str = ""  # the module whose pinned version `version_variables` receive
    version_variables: tuple[str, ...] = ()
    folders: tuple[tuple[str, str], ...] = ()  # (name here, folder in `version_module`): copied

    @property
    def source(self) -> Path:
        return GO_SOURCES / self.name

    def version(self) -> str:
        """The pinned version of `version_module`, for instance v1.36.3."""
        text = (self.source / "go.mod").read_text()
        match = re.search(rf"^\s*(?:require )?{re.escape(self.version_module)} (v\S+)", text, re.M)
        if match is None:
            raise LocalClusterError(f"{self.source}/go.mod does not pin {self.version_module}.")
        return match.group(1)

    def ldflags(self) -> str:
        """Linker flags: without debug tables, and with the version that the programs report."""
        flags = ["-s", "-w"]
        if self.version_module:
            version = self.version()
            major, minor = version.lstrip("v").split(".")[:2]
            values = {
                "{version}": version,
                "{plain}": version[1:],
                "{major}": major,
                "{minor}": minor,
            }
            for variable in self.version_variables:
                for key, value in values.items():
                    variable = variable.replace(key, value)
                flags += ["-X", variable]
        return " ".join(flags)

    def digest(self) -> str:
        """Hash of the pins, our own sources and the flags: what the programs are made from."""
        hasher = hashlib.sha256()
        for path in sorted(self.source.iterdir()):
            hasher.update(f"{path.name}\0".encode())
            hasher.update(path.read_bytes())
        hasher.update(f"{self.ldflags()}\0{platform.machine()}".encode())
        hasher.update(repr(sorted(self.tools.items())).encode())
        if self.folders:
            hasher.update(repr(self.folders).encode())
        return hasher.hexdigest()[:16]

    def folder(self, cache: Cache) -> Path:
        return cache.binaries / f"{self.name}-{self.digest()}"


_KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet",
               "kube-proxy", "kubectl")  # fmt: skip
_CONTAINERD = ("containerd", "containerd-shim-runc-v2", "ctr")

# In the order of building: what `up` needs first, Helm last.
FAMILIES = (
    Family(
        "kubernetes",
        {tool: f"k8s.io/kubernetes/cmd/{tool}" for tool in _KUBERNETES},
        "k8s.io/kubernetes",
        # Without these the API server calls itself v0.0.0-master.
        (
            "k8s.io/component-base/version.gitVersion={version}",
            "k8s.io/component-base/version.gitMajor={major}",
            "k8s.io/component-base/version.gitMinor={minor}",
            "k8s.io/client-go/pkg/version.gitVersion={version}",
        ),
    ),
    Family("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}),
    Family(
        "containerd",
        {tool: f"github.com/containerd/containerd/v2/cmd/{tool}" for tool in _CONTAINERD},
        "github.com/containerd/containerd/v2",
        ("github.com/containerd/containerd/v2/version.Version={plain}",),
    ),
    Family("coredns", {"coredns": "."}),
    Family("helm", {"helm": "helm.sh/helm/v4/cmd/helm"}),
    # No part of a cluster: what people run beside the operator, with its own chart.
    Family(
        "kueue",
        {"kueue": "sigs.k8s.io/kueue/cmd/kueue"},
        "sigs.k8s.io/kueue",
        folders=(("chart", "charts/kueue"),),
    ),
    # An S3 server over a folder, for tests.
    Family("versitygw", {"versitygw": "github.com/versity/versitygw/cmd/versitygw"}),
)
CLUSTER_FAMILIES = ("kubernetes", "etcd", "containerd", "coredns")


class Binaries:
    """Finds the built programs and builds what is missing."""

    def __init__(self, cache: Cache | None = None) -> None:
        self._cache = cache or Cache.from_environment()

    def path(self, tool: str) -> Path:
        """The program's path, whether or not it is built yet."""
        for family in FAMILIES:
            if tool in family.tools:
                return family.folder(self._cache) / tool
        known = ", ".join(sorted(tool for family in FAMILIES for tool in family.tools))
        raise LocalClusterError(f"There is no program '{tool}'; there are {known}.")

    def missing(self, families: Sequence[str] = CLUSTER_FAMILIES) -> list[str]:
        """Those of `families` that are not in the cache."""
        return [
            family.name for family in _chosen(families) if not family.folder(self._cache).is_dir()
        ]

    def build(self, families: Sequence[str], report: Report) -> None:
        """Build these families one after another; safe beside other callers of the same.

        report gets a stage ("build <family>") and what is being done.
        """
        for family in _chosen(families):
            target = family.folder(self._cache)
            if target.is_dir():
                continue
            with locked(self._cache.lock(f"build-{family.name}")):
                if not target.is_dir():
                    self._build(family, target, report)
            self._drop_old(family)

    def _build(self, family: Family, target: Path, report: Report) -> None:
        stage = f"build {family.name}"
        go = find_go(self._cache, lambda detail: report(stage, detail))
        environment = _environment(self._cache)
        packages = list(family.tools.values())
        _require_space(self._cache)
        report(stage, "fetching modules")
        listed = self._go(go, ["list", "-mod=readonly", "-deps", *packages], family, environment)
        total = len(listed.splitlines())
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = f".building-{family.name}-"
        for left in target.parent.glob(f"{unfinished}*"):  # by a build that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=unfinished) as temporary:
            work = Path(temporary) / "bin"
            work.mkdir()
            # Several programs at once share their compilation; a single one may need another
            # name than its package's.
            single = next(iter(family.tools)) if len(family.tools) == 1 else ""
            command = ["build", "-v", "-mod=readonly", "-trimpath", "-ldflags", family.ldflags(),
                       "-o", f"{work}/{single}", *packages]  # fmt: skip
            seen = 0

            def compiled(_line: str) -> None:
                nonlocal seen
                seen += 1
                if seen % 25 == 0:
                    report(stage, f"{seen} of at most {total} packages compiled")

            self._go(go, command, family, environment, compiled)
            for name, inside in family.folders:
                module = ["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", family.version_module]
                found = self._go(go, module, family, environment).strip()
                shutil.copytree(f"{found}/{inside}", work / name, copy_function=shutil.copy)
            work.chmod(0o755)
            work.rename(target)
        report(stage, "done")

    def _go(
        self,
        go: Path,
        arguments: list[str],
        family: Family,
        environment: dict[str, str],
        on_error_line: Callable[[str], None] | None = None,
    ) -> str:
        """Run go in the family's folder; its standard output, its error lines as they come."""
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                [go, *arguments],
                cwd=family.source,
                env=environment,
                text=True,
                stdout=output,
                stderr=subprocess.PIPE,
            )
            assert process.stderr is not None  # noqa: S101 - PIPE was asked for
            last: list[str] = []
            for line in process.stderr:
                last = [*last[-9:], line.rstrip()]
                if on_error_line:
                    on_error_line(line)
            if process.wait() != 0:
                raise LocalClusterError(
                    f"`go {arguments[0]}` failed in {family.source} (is a Go module proxy in "
                    "reach, and disk free?):\n" + "\n".join(last)
                )
            output.seek(0)
            return output.read()

    def _drop_old(self, family: Family) -> None:
        """Keep one build of a family: the present one. A running cluster keeps its open files."""
        for path in self._cache.binaries.glob(f"{family.name}-*"):
            in_use = any(os.path.realpath(link).startswith(f"{path}/") for link in _executables())
            if path != family.folder(self._cache) and not in_use:
                shutil.rmtree(path, ignore_errors=True)


def path(tool: str) -> Path:
    """Path of a built program (kubectl, helm, …) in the user's cache."""
    found = Binaries().path(tool)
    if not found.exists():
        raise LocalClusterError(
            f"{tool} is not built yet: run `python -m local_cluster build` first."
        )
    return found


def _executables() -> list[Path]:
    return list(Path("/proc").glob("[0-9]*/exe"))


def _chosen(names: Sequence[str]) -> list[Family]:
    known = {family.name: family for family in FAMILIES}
    for name in names:
        if name not in known:
            raise LocalClusterError(
                f"There is no program family '{name}'; there are {', '.join(known)}."
            )
    return [family for family in FAMILIES if family.name in names]


def _require_space(cache: Cache) -> None:
    free, existing = free_disk(cache.root)
    if free < BUILD_DISK:
        raise LocalClusterError(
            f"Building needs {BUILD_DISK / 2**30:.0f} GiB for Go's module and build caches and "
            f"{existing} has {free / 2**30:.1f} GiB free: free some, or point HOME and "
            "FINETUNE_CACHE to another disk."
        )


def _environment(cache: Cache) -> dict[str, str]:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": ""}
    if not environment.get("HOME"):
        # Go's default caches lie below HOME.
        environment["GOPATH"] = str(cache.root / "go")
        environment["GOCACHE"] = str(cache.root / "go-build")
    return environment
