"""buildah with a store of its own, below the cache.

Everything in that store is ours: what a killed build left can be removed without a look at
other people's images, and deleting the cache frees the disk. A child process gets at the store
through one environment variable, see `Store.environment`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local_cluster.debian import find_tool, prepare_host
from local_cluster.errors import LocalClusterError
from local_cluster.layout import Cache, free_disk, locked, write_private

Report = Callable[[str], None]
"""Takes one short line of progress."""

HOST_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
GIBIBYTE = 1024**3

# What a RUN step of our Dockerfiles says of itself begins with this.
PROGRESS_MARK = ":: "

# A long command and all that it starts and mounts die with us, however we end: the next start
# must find nobody at work.
_CONFINED = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--kill-child", "--mount-proc"),
)


@dataclass(frozen=True)
class Store:
    """One buildah store: its files, its lock, the commands on it."""

    root: Path

    @classmethod
    def from_environment(cls) -> Store:
        """The store of this user's cache (`$FINETUNE_CACHE`, else ~/.cache/finetune-operator)."""
        return cls(Cache.from_environment().root / "containers")

    @property
    def logs(self) -> Path:
        return self.root / "log"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    def environment(self) -> dict[str, str]:
        """The process environment under which `buildah` works on this store."""
        # The run root must not outlive a reboot (it counts mounts), hence /run; its name must
        # differ from store to store.
        run = Path("/run") / f"finetune-images-{hashlib.sha256(bytes(self.root)).hexdigest()[:8]}"
        configuration = self.root / "storage.conf"
        text = (
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.root / "storage"}"\n'
            f'runroot = "{run}"\n'
        )
        if not configuration.exists() or configuration.read_text() != text:
            self.root.mkdir(parents=True, exist_ok=True)
            write_private(configuration, text)
        return {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(configuration),
            # chroot: needs no container runtime and works inside containers.
            "BUILDAH_ISOLATION": "chroot",
            "BUILDAH_LAYERS": "false",
            "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
        }

    @contextmanager
    def building(self, report: Report) -> Iterator[None]:
        """Hold the store for a build: one at a time, and first away with a killed build's rest."""
        if os.geteuid() != 0:
            raise LocalClusterError("Building images needs root: run the same command with sudo.")
        require_tools(report, "buildah")
        with locked(self.root / "lock"):
            self.run("rm", "--all")
            shutil.rmtree(self.temporary, ignore_errors=True)
            self.temporary.mkdir(parents=True)
            yield

    def run(self, *arguments: str | Path) -> str:
        """Run a short buildah command; returns its stdout. Raises LocalClusterError."""
        done = subprocess.run(
            ["buildah", *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=self.environment(),
        )
        if done.returncode != 0:
            raise LocalClusterError(f"`buildah {arguments[0]}` failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def has(self, reference: str) -> bool:
        """Whether the image is here, complete (buildah names an image only after its commit)."""
        if not (self.root / "storage").exists() or find_tool("buildah") is None:
            return False
        command = ["buildah", "images", "--quiet", reference]
        done = subprocess.run(command, check=False, capture_output=True, env=self.environment())
        return done.returncode == 0 and bool(done.stdout.strip())

    def images(self) -> list[tuple[str, int]]:
        """(reference, bytes) of all named images, newest first."""
        listed = json.loads(self.run("images", "--json") or "[]")
        rows = [
            (image["created"], name, _bytes(image["size"]))
            for image in listed
            for name in image["names"] or ()
        ]
        return [(name, size) for _, name, size in sorted(rows, reverse=True)]

    def build(self, name: str, arguments: Sequence[str | Path], report: Report) -> None:
        """`buildah bud`; what its steps say of themselves is progress, all output goes to a log."""
        self.stream(name, ["buildah", "bud", "--pull=false", *arguments], report)

    def stream(self, name: str, command: Sequence[str | Path], report: Report) -> None:
        """Run a long command; on failure say its last lines and where the others are."""
        self.logs.mkdir(exist_ok=True)
        log = self.logs / f"{name.replace(' ', '-')}.log"
        last: deque[str] = deque(maxlen=12)
        with (
            log.open("w") as file,
            subprocess.Popen(
                [*_CONFINED, *command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # A commit's files of gigabytes: where `building` finds what a killed one left.
                env={**self.environment(), "TMPDIR": str(self.temporary)},
            ) as process,
        ):
            assert process.stdout is not None  # noqa: S101  (for the type checker)
            for line in process.stdout:
                file.write(line)
                file.flush()
                last.append(line.rstrip())
                if line.startswith(PROGRESS_MARK):
                    report(f"{name}: {line.removeprefix(PROGRESS_MARK).rstrip()}")
        if process.returncode != 0:
            raise LocalClusterError(
                f"Building {name} failed; the whole log is {log}. Its last lines:\n"
                + "\n".join(last)
            )

    def keep_newest(self, repository: str, count: int) -> None:
        """Forget all but the `count` newest tags of a repository, and layers nobody names."""
        names = [name for name, _ in self.images() if name.rpartition(":")[0] == repository]
        for name in names[count:]:
            self.run("rmi", name)
        self.run("rmi", "--prune")

    def require_space(self, gibibytes: float, purpose: str) -> None:
        """Refuse in one sentence to begin what the disk cannot hold."""
        free = free_disk(self.root)[0] / GIBIBYTE
        if free < gibibytes:
            raise LocalClusterError(
                f"{purpose} needs {gibibytes:.0f} GiB of disk below {self.root} for a while and "
                f"{free:.1f} GiB are free: free some, or point FINETUNE_CACHE to a larger disk."
            )


def environment_for(reference: str) -> dict[str, str]:
    """The process environment in which `buildah` finds the image: our store, else the host's."""
    store = Store.from_environment()
    return store.environment() if store.has(reference) else dict(os.environ)


def push(reference: str, destination: str, report: Report, *, insecure: bool = True) -> None:
    """Copy an image to a registry; layers that are there already do not move.

    destination: `host:port/repository:tag`. insecure: plain HTTP, for a local registry.
    """
    report(f"pushing {destination}")
    # zstd at level 1: half of gzip's time for about the same size.
    command = ["buildah", "push", "--quiet", "--compression-format", "zstd"]
    command += ["--compression-level", "1", f"--tls-verify={str(not insecure).lower()}"]
    done = subprocess.run(
        [*command, reference, f"docker://{destination}"],
        check=False,
        capture_output=True,
        text=True,
        env=environment_for(reference),
    )
    if done.returncode != 0:
        raise LocalClusterError(f"Pushing {reference} to {destination} failed: {done.stderr}")


def require_tools(report: Report, *commands: str) -> None:
    """Install the Debian packages of the commands (package = command) that are missing."""
    missing = [command for command in commands if find_tool(command) is None]
    if not missing:
        return
    if os.geteuid() != 0:
        raise LocalClusterError(
            f"{' and '.join(missing)} missing: run as root, or install the packages of that name."
        )
    report(f"installing {', '.join(missing)}")
    prepare_host(missing)


def certificate_arguments() -> list[str]:
    """Build arguments that lend the host's certificates to a build, for proxies with own CAs.

    Mounted over a file that every base image has, so nothing stays in the image.
    """
    named = os.environ.get("SSL_CERT_FILE")
    file = Path(named) if named else HOST_CERTIFICATES
    if not file.is_file():
        return []
    return [
        "--volume",
        f"{file.resolve()}:{HOST_CERTIFICATES}:ro",
        "--build-arg",
        f"SSL_CERT_FILE={HOST_CERTIFICATES}",
    ]


def _bytes(text: str) -> int:
    """buildah's `6.3 GB` -> bytes."""
    number, _, unit = text.partition(" ")
    factor = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}[unit.strip().upper()]
    return int(float(number) * factor)
