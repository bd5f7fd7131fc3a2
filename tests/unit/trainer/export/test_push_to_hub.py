"""Pushing to a hub: one commit, or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_that_takes import TOKEN, Hub, serving
from huggingface_hub import constants

from finetune_trainer.config import Destination, HubPlace, JobRef
from finetune_trainer.errors import PublishFailed, PublishRefused
from finetune_trainer.publishing.destinations import push_all

JOB = JobRef(namespace="team", name="bot", uid="u")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    with serving(hub):
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)  # the push decides
        yield hub


@pytest.fixture
def output(tmp_path: Path) -> Path:
    merged = tmp_path / "output/merged"
    merged.mkdir(parents=True)
    (merged / "model.safetensors").write_bytes(b"weights")
    (merged / "README.md").write_text("---\nlibrary_name: transformers\n---\n# bot\n")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    return tmp_path / "output"


def push(output: Path, revision: str = "main", private: bool = True) -> dict[str, str]:
    place = HubPlace(
        repository="team/bot",
        revision=revision,
        private=private,
        token_path=str(output.parent / "token"),
    )
    wish = Destination(name="hub", field="spec.output.destinations[1]", format="Merged", hub=place)
    (pushed,) = push_all((wish,), output, JOB, {"merged": "sha256:aa"}, pause_seconds=0)
    return pushed


def test_all_files_come_in_one_commit_to_a_repository_that_is_private(
    hub: Hub, output: Path
) -> None:
    pushed = push(output)
    assert pushed == {"name": "hub", "uri": "hf://team/bot", "digest": hub.sha("main")}
    assert hub.private is True
    ((message, files),) = hub.branches["main"]
    assert message == "team/bot: sha256:aa"
    assert files == {path.name: path.read_bytes() for path in (output / "merged").iterdir()}


def test_what_the_new_version_lacks_goes_in_the_same_commit(hub: Hub, output: Path) -> None:
    old = output / "merged/model-00001-of-00002.safetensors"
    old.write_bytes(b"shard")
    push(output)
    old.unlink()
    (output / "merged/model.safetensors").write_bytes(b"other")
    push(output)
    _, (_, files) = hub.branches["main"]
    assert files.keys() == {"model.safetensors", "README.md"}
    assert files["model.safetensors"] == b"other"


def test_pushing_the_same_again_makes_no_commit(hub: Hub, output: Path) -> None:
    assert push(output) == push(output)
    assert len(hub.branches["main"]) == 1


def test_another_branch_is_made_and_main_stays(hub: Hub, output: Path) -> None:
    push(output, revision="v2", private=False)
    assert hub.private is False
    assert (len(hub.branches["main"]), len(hub.branches["v2"])) == (0, 1)


@pytest.mark.parametrize("lost", [False, True])
def test_a_busy_hub_is_asked_again_and_gets_one_commit(hub: Hub, output: Path, lost: bool) -> None:
    hub.loses_answers, hub.failures = lost, 0 if lost else 2
    assert push(output)["digest"] == hub.sha("main")
    assert len(hub.branches["main"]) == 1


def test_a_hub_that_stays_busy_is_worth_another_attempt(hub: Hub, output: Path) -> None:
    hub.failures = 99
    with pytest.raises(PublishFailed, match=r"destinations\[1\]\.hub \(hub\): .*tried 4 times"):
        push(output)
    assert hub.branches["main"] == []
    assert (output / "merged/model.safetensors").read_bytes() == b"weights"


def test_a_token_that_may_not_write_is_the_end(hub: Hub, output: Path) -> None:
    hub.may_write = False
    with pytest.raises(PublishRefused, match="HTTP 403") as caught:
        push(output)
    assert "hub.secretRef must be allowed to write" in str(caught.value.hint)
    assert "the result lies on its claim" in str(caught.value)
    (output.parent / "token").write_text("hf_wrong")
    with pytest.raises(PublishRefused, match="HTTP 401"):
        push(output)
    (output.parent / "token").unlink()
    with pytest.raises(PublishRefused, match="the Secret holds no token"):
        push(output)
