"""What all parts of ``FineTuneJob.status`` are made of."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

Counter = Annotated[int, Field(ge=0)]
Message = Annotated[str, Field(max_length=1024)]


class StageName(StrEnum):
    """The stages, in their order."""

    PREPARE = "prepare"
    TRAIN = "train"
    SCORE = "score"
    EXPORT = "export"
