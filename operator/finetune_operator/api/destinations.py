"""Where the result goes besides its claim: ``spec.output.destinations``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from .object_store import S3_URI, S3Access, S3SecretRef
from .schema import DnsLabel, Matches, ObjectName, Rule, SpecModel, exactly_one
from .training import Switch

HUB_REPOSITORY = Matches(
    pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}$",
    message="must be organization/name or user/name",
)
OCI_IMAGE = Matches(
    pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]+)?(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)+"
    r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$",
    message="must be registry/repository:tag with the registry's host, such as "
    "registry.example:5000/team/bot:v1",
)


class OutputFormat(StrEnum):
    """Form of the result."""

    ADAPTER = "Adapter"
    MERGED = "Merged"
    GGUF = "GGUF"


class GgufType(StrEnum):
    """Type of the weights in a GGUF file."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    Q8_0 = "Q8_0"


class Visibility(StrEnum):
    """Who sees a repository that is made for the result."""

    PRIVATE = "Private"
    PUBLIC = "Public"


class HubTokenRef(SpecModel):
    """A Secret in the job's namespace. The operator never reads it; the kubelet mounts it."""

    name: ObjectName
    """Name of the Secret. Its key `token` holds an access token that may write."""


class RegistrySecretRef(SpecModel):
    """A Secret in the job's namespace. The operator never reads it; the kubelet mounts it."""

    name: ObjectName
    """Name of a Secret of type kubernetes.io/dockerconfigjson, as image pulls use it; its account
    must be allowed to push."""


class HubDestination(SpecModel):
    """A repository of a model hub. What the result does not have is removed from it; everything in
    one commit, so readers see the old model or the new one."""

    repository: Annotated[str, HUB_REPOSITORY]
    """`organization/name`. Made if it is not there."""
    revision: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.-]+$")] = (
        "main"
    )
    """Branch that the commit goes to; made from `main` if it is not there. Absent: `main`."""
    visibility: Visibility = Visibility.PRIVATE
    """Of a repository that is made; one that is there stays as it is. Absent: Private."""
    secret_ref: HubTokenRef
    """The access token."""


class OciDestination(SpecModel):
    """An image in a registry: the files of the result at its root and nothing else. Pods mount it
    as a volume of type image, and other jobs take it as `image://` model."""

    image: Annotated[str, OCI_IMAGE]
    """`registry/repository:tag`. The tag moves to the new image when all of it is there."""
    plain_http: Annotated[Switch, Field(alias="plainHTTP")] = Switch.DISABLED
    """Enabled: the registry speaks HTTP without encryption, as registries inside a cluster may.
    Absent: Disabled."""
    secret_ref: RegistrySecretRef | None = None
    """Login of the registry. Absent: it takes images without one."""


class S3Destination(S3Access):
    """A prefix of a bucket. Its `manifest.json` is written last and names all files with size and
    hash; files that an earlier result left there and this one does not have are removed."""

    uri: Annotated[str, S3_URI]
    """`s3://bucket/prefix`."""
    secret_ref: S3SecretRef
    """The access key; it must be allowed to list, read, write and delete below the prefix."""


class Destination(SpecModel):
    """A place that the result is pushed to, after it lies on its claim."""

    name: DnsLabel
    """Short name, unique in the list; status and messages use it."""
    format: OutputFormat = OutputFormat.MERGED
    """Which form goes there; it must be among `output.formats`. Absent: Merged."""
    hub: HubDestination | None = None
    """A model hub; the chart's `trainer.hfEndpoint` says which."""
    oci: OciDestination | None = None
    """An image registry."""
    s3: S3Destination | None = None
    """A bucket."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("hub", "oci", "s3", message="set exactly one of hub, oci and s3"),
    )
