"""Programs from Debian packages: installed where they bring no service, else only unpacked."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from local_cluster.errors import LocalClusterError
from local_cluster.layout import Cache, locked

# Command -> package. None of these packages starts a service.
HOST_TOOLS = {
    "runc": "runc",
    "nft": "nftables",
    "ip": "iproute2",
    "nsenter": "util-linux",
}
CNI_PLUGINS = Path("/usr/lib/cni")
CNI_PACKAGE = "containernetworking-plugins"

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def find_tool(command: str) -> str | None:
    """The path of a host command; looks into sbin too, which a user's PATH often lacks."""
    return shutil.which(command, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}")


def missing_packages() -> list[str]:
    """The Debian packages that the host lacks for running a cluster."""
    missing = [package for command, package in HOST_TOOLS.items() if find_tool(command) is None]
    if not all((CNI_PLUGINS / plugin).exists() for plugin in ("ptp", "host-local", "loopback")):
        missing.append(CNI_PACKAGE)
    return missing


def prepare_host(packages: list[str] | None = None) -> list[str]:
    """Install what `missing_packages` names (or `packages`); returns what was installed."""
    wanted = missing_packages() if packages is None else packages
    if not wanted:
        return []
    if shutil.which("apt-get") is None:
        raise LocalClusterError(
            f"This host has no apt-get: install {', '.join(wanted)} with its own package manager."
        )
    install = ["install", "-y", "--no-install-recommends", *wanted]
    if _apt_get(install, check=False).returncode != 0:
        _apt_get(["update"])
        _apt_get(install)
    return wanted


def debian_binary(package: str, path: str, cache: Cache | None = None) -> Path:
    """A program of a Debian package, unpacked into the cache without installing the package.

    So its service never starts on the host. package: for instance `docker-registry`; path: the
    program inside, for instance `usr/bin/docker-registry`. Libraries must be on the host.
    """
    folder = (cache or Cache.from_environment()).debian / package
    program = folder / path
    if program.exists():
        return program
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise LocalClusterError(
            f"{program} is missing and this host has no apt-get: unpack the Debian package "
            f"{package} into {folder}."
        )
    with locked((cache or Cache.from_environment()).lock(f"debian-{package}")):
        if program.exists():
            return program
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            work = Path(temporary)
            if _apt_get(["download", package], cwd=work, check=False).returncode != 0:
                _apt_get(["update"])
                _apt_get(["download", package], cwd=work)
            archive = next(work.glob("*.deb"))
            unpacked = work / "unpacked"
            subprocess.run(["dpkg-deb", "-x", archive, unpacked], check=True)
            if not (unpacked / path).exists():
                raise LocalClusterError(f"The Debian package {package} holds no {path}.")
            shutil.rmtree(folder, ignore_errors=True)
            unpacked.rename(folder)
    return program


def _apt_get(
    arguments: list[str], *, cwd: Path | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        # Somebody else's apt may hold the lock for a while: wait instead of failing.
        ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-o", "APT::Sandbox::User=root", *arguments],
        cwd=cwd,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )
    if check and done.returncode != 0:
        last = "\n".join(done.stdout.strip().splitlines()[-5:])
        raise LocalClusterError(
            f"`apt-get {' '.join(arguments)}` failed (as root, with a package source in reach?):\n"
            + last
        )
    return done
