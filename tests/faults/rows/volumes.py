"""The volume that jobs work on is not there yet."""

from __future__ import annotations

from e2e.place import claim
from faults.ground import Ground
from faults.matrix import Outcome, row
from faults.rows.api_server import end_well

from local_cluster.storage import volume

VOLUME = "late-volume"


@row(
    "claim-pending",
    "the job's claim waits for a volume, which comes later",
    "one sentence names the claim, no restart, it heals",
    short=False,
)
def claim_pending(ground: Ground) -> Outcome:
    site = ground.site()
    waits = claim("late", storageClassName="", volumeName=VOLUME)
    ground.kubectl.apply(waits, namespace=site.namespace)
    with ground.operator(site):
        site.create("late", steps=2, storage={"claimRef": {"name": "late"}})

        def told() -> bool:
            sentence = site.statuses()["late"].get("pendingReason") or ""
            return sentence.endswith("look at PersistentVolumeClaim late") and "\n" not in sentence

        site.wait(lambda: f"the reason, not {site.summary()}", told, 120)
        folder = ground.cluster.paths.volumes / VOLUME
        folder.mkdir(exist_ok=True)
        late = volume(VOLUME, folder)
        late["spec"]["storageClassName"] = ""
        ground.api.apply(f"/api/v1/persistentvolumes/{VOLUME}", late)
        try:
            end_well(site)
        finally:  # it goes once its claim does
            ground.api.json("DELETE", f"/api/v1/persistentvolumes/{VOLUME}")
        assert "pendingReason" not in site.statuses()["late"]
    return Outcome()
