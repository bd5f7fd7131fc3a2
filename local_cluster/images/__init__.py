"""Our images, built with buildah: no container engine, nothing rebuilt that did not change.

    from local_cluster.images import build_trainer, push

    reference = build_trainer(print)        # localhost:5000/finetune-trainer:<content hash>
    push(reference, "10.88.255.1:5000/finetune-trainer:dev", print)

The images stand in a store of their own below the cache (see `store.py`), so buildah on its
own does not list them; `python -m local_cluster.images list` does.
"""

from local_cluster.images.base import build_base
from local_cluster.images.model import build_model
from local_cluster.images.product import build_operator, build_trainer
from local_cluster.images.store import Report, Store, push

__all__ = [
    "Report",
    "Store",
    "build_base",
    "build_model",
    "build_operator",
    "build_trainer",
    "push",
]
