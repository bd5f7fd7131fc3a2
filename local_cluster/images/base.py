"""The base image: Debian's Python by debootstrap.

It stands in for the Dockerfiles' public default where no image registry can be reached, and
keeps local builds independent of one where it can. `BASE_IMAGE` names another base.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from local_cluster.images.digest import content_digest
from local_cluster.images.store import Report, Store, require_tools

REPOSITORY = "localhost/python-base"
SUITE = "bookworm"  # Python 3.11, as in the Dockerfiles' default
PACKAGES = ("ca-certificates", "python3", "python3-venv")

# Every image on top carries what stays here, so out with what no process reads.
USELESS = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/cache/apt",
    "var/cache/debconf",
    "var/lib/apt/lists",
    "var/log",
)
# dpkg leaves the same things out when a Dockerfile installs more packages.
DPKG_EXCLUDES = (
    "path-exclude=/usr/share/doc/*\n"
    "path-exclude=/usr/share/man/*\n"
    "path-exclude=/usr/share/locale/*\n"
    "path-exclude=/usr/share/info/*\n"
)
SPACE_GIBIBYTES = 2.0


def build_base(report: Report) -> str:
    """The reference of the base image; builds it when it is not there yet.

    With `BASE_IMAGE` in the environment, that reference, which buildah then pulls.
    """
    named = os.environ.get("BASE_IMAGE")
    store = Store.from_environment()
    reference = named or f"{REPOSITORY}:{content_digest([SUITE, *PACKAGES, *USELESS])}"
    if store.has(reference):
        return reference
    with store.building(report):
        if store.has(reference):  # another process was faster
            return reference
        if named:
            report(f"pulling {named}")
            store.run("pull", "--quiet", named)
        else:
            _build(store, reference, report)
    return reference


def _build(store: Store, reference: str, report: Report) -> None:
    store.require_space(SPACE_GIBIBYTES, "The base image")
    require_tools(report, "debootstrap")
    report(f"base image: debootstrap {SUITE}")
    root = store.temporary / "rootfs"
    command: list[str | Path] = ["debootstrap", "--variant=minbase"]
    command += [f"--include={','.join(PACKAGES)}", SUITE, root]
    if mirror := _host_mirror():
        command.append(mirror)
    store.stream("base image", command, report)
    for path in USELESS:
        shutil.rmtree(root / path, ignore_errors=True)
        (root / path).mkdir(parents=True)
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(DPKG_EXCLUDES)
    (root / "var/cache/apt/archives/partial").mkdir(parents=True)

    container = store.run("from", "scratch")
    store.run("add", "--quiet", container, root, "/")
    store.run("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", container)
    store.run("commit", "--quiet", "--rm", container, reference)
    shutil.rmtree(root, ignore_errors=True)


def _host_mirror() -> str | None:
    """The package mirror that the host's apt uses for the suite; None: debootstrap's own."""
    if shutil.which("apt-get") is None:
        return None
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)"],
        check=False,
        capture_output=True,
        text=True,
    ).stdout
    for line in listed.splitlines():
        uri, codename, component = (*line.split(), "", "", "")[:3]
        if (codename, component) == (SUITE, "main"):
            return uri
    return None
