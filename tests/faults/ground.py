"""What a row works with: namespaces and operators of its own, and in the end the truth."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.kubectl import Kubectl, wait_for
from e2e.place import claim
from faults import audit
from faults.door import Door
from faults.history import Life, lives
from faults.host_operator import USER, HostOperator
from faults.invariants import Place
from faults.site import Site
from faults.truth import listing, settled

from local_cluster import LocalCluster
from local_cluster.api import API_PORT, Api
from local_cluster.pki import KeyPair

if TYPE_CHECKING:
    from e2e.fixtures import Images


@dataclass
class Ground:
    """One row's place in the real cluster."""

    cluster: LocalCluster
    kubectl: Kubectl
    images: Images
    trainer: str
    """Image of the contract trainer."""
    whole: bool
    """False: the short form, for ``make test``."""
    name: str
    folder: Path
    operator_user: str = USER
    """Whose writes are the operator's; a row with an operator of its own in the cluster sets it."""
    sites: list[Site] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._since = self.cluster.paths.audit_log.stat().st_size
        self.plane = self.cluster.control_plane()
        identities = self.plane.identities
        self._as_operator = identities.authority.issue("fault-operator", USER)

    @property
    def api(self) -> Api:
        """The API server as its administrator sees it."""
        return self.plane.api

    def site(self, suffix: str = "") -> Site:
        """A new namespace with a shared claim ``work``, watched over by the invariants."""
        namespace = f"fault-{self.name}{suffix}"
        self.kubectl("create", "namespace", namespace)
        restricted = "pod-security.kubernetes.io/enforce=restricted"
        self.kubectl("label", "namespace", namespace, restricted)
        self.kubectl.apply(claim("work"), namespace=namespace)
        account = ("get", "serviceaccount", "default")
        wait_for(
            "the namespace's account",
            lambda: self.kubectl.run(*account, namespace=namespace).returncode == 0,
            30,
        )
        self.sites.append(Site(self.api, namespace))
        return self.sites[-1]

    @contextmanager
    def operator(self, site: Site, number: int = 0) -> Iterator[tuple[HostOperator, Door]]:
        """An operator for the site behind a door of its own; ready when it is handed out."""
        folder = self.folder / f"{site.namespace}-{number}"
        with (
            self.door(self._as_operator) as door,
            HostOperator(door, folder, site.namespace, self.trainer) as operator,
        ):
            wait_for("the operator watches", operator.ready, 60, 0.1)
            yield operator, door
        assert not operator.crashes, operator.crashes

    def door(self, identity: KeyPair | None = None) -> Door:
        """A way to the API server with the rights of a certificate; None: the administrator's."""
        identities = self.plane.identities
        pair = identity or identities.admin
        tls = ssl.create_default_context(cafile=str(identities.authority.pair.certificate))
        tls.load_cert_chain(pair.certificate, pair.key)
        return Door(f"https://{self.cluster.subnet.door}:{API_PORT}", tls)

    def lives(self) -> list[Life]:
        """Every FineTuneJob that this row has had, from the audit log."""
        names = {site.namespace for site in self.sites}
        return lives(audit.writes(self.cluster.paths.audit_log, self._since, names))

    def refused(self, code: int) -> int:
        """How many of the operator's requests got this answer from the API server."""
        return audit.refused(self.cluster.paths.audit_log, self._since, self.operator_user, code)

    def violations(self, led: list[Life]) -> list[str]:
        """Of all invariants; what may take a moment gets it."""
        return settled(led, lambda: Place(self.operator_user, listing(self.sites)))

    def leave(self) -> None:
        """Give the namespaces back."""
        for site in self.sites:
            self.kubectl("delete", "namespace", site.namespace, "--wait=false")
