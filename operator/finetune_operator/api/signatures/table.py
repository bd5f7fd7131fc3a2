"""All signatures of what a pod prints, in the order in which they are asked."""

from __future__ import annotations

from .communication import COMMUNICATION
from .files import FILES
from .gpu import GPU
from .hub import HUB
from .memory import MEMORY
from .model import MODEL
from .software import SOFTWARE

SIGNATURES = (
    *GPU,  # a broken card makes everything else fail too
    *COMMUNICATION,
    *MEMORY,
    *FILES,  # after shared memory, which also says "no space left"
    *MODEL,
    *SOFTWARE,
    *HUB,  # last: a failed download leaves clearer words in the files that it broke
)
