"""What the API server of a local cluster writes to its audit log."""

from __future__ import annotations

from local_cluster.control_plane import audit_policy


def test_every_request_is_a_line_and_its_object_only_where_that_is_asked_for() -> None:
    plain, whole = audit_policy(objects=False), audit_policy(objects=True)
    assert plain["rules"] == [{"level": "Metadata"}]
    objects, rest = whole["rules"]  # the first rule that matches counts
    assert (objects["level"], rest["level"]) == ("RequestResponse", "Metadata")
    assert "list" not in objects["verbs"] and "watch" not in objects["verbs"]
    kinds = {kind for group in objects["resources"] for kind in group["resources"]}
    assert {"finetunejobs/status", "jobs/status", "pods/status"} <= kinds
    assert "secrets" not in kinds
