"""Buckets of S3 and of stores that speak like it: ``s3://bucket/key``, and how they are reached."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .schema import Matches, ObjectName, SpecModel

_BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.+=@,-]*"
S3 = rf"s3://{_BUCKET}(/{_SEGMENT})*/?"
ENDPOINT = Matches(
    pattern=r"^https?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?$",
    message="must be https://host or http://host, with :port where it is another than usual, and "
    "without a path",
)
REGION = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")
S3_URI = Matches(
    pattern=rf"^{S3}$",
    message="must be s3://bucket/prefix; the prefix without '..', blanks or a leading dot",
)


class S3SecretRef(SpecModel):
    """A Secret in the job's namespace. The operator never reads it; the kubelet mounts it."""

    name: ObjectName
    """Name of the Secret. Its keys are `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`; it may have
    `AWS_SESSION_TOKEN`, `AWS_REGION` and `AWS_ENDPOINT_URL` besides."""


class S3Access(SpecModel):
    """How a bucket is reached."""

    endpoint: Annotated[str, ENDPOINT] | None = None
    """Address of the S3 API, such as `https://minio.example:9000`; with `http://` keys and rows are
    not encrypted on the way. Absent: what the Secret's `AWS_ENDPOINT_URL` says, else Amazon's."""
    region: (
        Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")] | None
    ) = None
    """Absent: what the Secret's `AWS_REGION` says, else `us-east-1`."""
    secret_ref: S3SecretRef | None = None
    """The access key. Absent: requests are not signed, as public buckets take them."""
