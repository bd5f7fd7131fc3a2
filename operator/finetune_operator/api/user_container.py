"""A container of the user's own in a pod of the job."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .schema import Matches, SpecModel
from .workers import Resources

Argument = Annotated[str, Field(max_length=1024)]
IMAGE = Matches(
    pattern=r"^[a-z0-9][A-Za-z0-9._-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*(:[A-Za-z0-9._-]+)?"
    r"(@sha256:[0-9a-f]{64})?$",
    message="must be an image such as registry.example.com/team/scorer:1, without a scheme",
)


class UserContainer(SpecModel):
    """It runs as user 1000, with a read-only root, /tmp to write to, and no token of a service
    account."""

    image: Annotated[str, IMAGE]
    """Image of the container; by digest, so that it is always the same."""
    command: Annotated[tuple[Argument, ...], Field(min_length=1, max_length=32)] | None = None
    """Entry point. Absent: that of the image."""
    args: Annotated[tuple[Argument, ...], Field(min_length=1, max_length=32)] | None = None
    """Its arguments. Absent: those of the image."""
    resources: Resources | None = None
    """CPU, memory and the like of the container."""


class Augment(UserContainer):
    """A container that makes other rows of the training rows, once they are fetched and before they
    are cleaned. Of each source it reads `$ROWS_IN/<name>.jsonl` and writes
    `$ROWS_OUT/<name>.jsonl`, one JSON object a line, in the columns of the source."""
