"""Two attempts of prepare or export side by side: the older one may wake up at any point."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_job import make_config
from tiny_models import save_tiny_model

from finetune_trainer import __main__ as entry
from finetune_trainer import stage_attempt as module
from finetune_trainer.errors import Preempted
from finetune_trainer.prepare import manifest as manifests
from finetune_trainer.prepare import stage
from finetune_trainer.prepare.augment import remove_rows
from finetune_trainer.stage_attempt import StageAttempt

UID, OTHER = "uid-one", "uid-two"


def content(folder: Path) -> dict[str, str]:
    """Every file below ``folder`` that is not hidden, nor a record of an attempt."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith((".", "stages")) for part in path.relative_to(folder).parts)
    }


def seal(folder: Path, uid: str = UID) -> None:
    manifests.seal(folder, "sha256:input", {"job": {"uid": uid}})


def life(workspace: Path, number: int) -> Iterator[str]:
    """An attempt of export, which stops before each of its steps; the last one is all that it does
    between looking for a successor and the last rename."""
    target = workspace / "merged"
    attempt = StageAttempt(workspace, "export", number, UID)
    yield "begin"
    attempt.begin()
    yield "clear"
    attempt.clear(target)
    yield "scratch"
    made = attempt.scratch(target)
    for name in ("a", "b"):
        yield f"write {name}"
        (made / name).write_text(f"attempt {number}")
    yield "seal"
    seal(made)
    yield "publish"
    attempt.publish(made, target)


STEPS = 7


@pytest.mark.parametrize("there", [False, True], ids=["nothing there", "an older result is there"])
@pytest.mark.parametrize(
    ("asleep", "until"),
    [(a, u) for a, u in itertools.product(range(STEPS), range(STEPS + 1)) if u],
)
def test_an_attempt_that_sleeps_and_wakes_harms_none_that_followed(
    tmp_path: Path, asleep: int, until: int, there: bool
) -> None:
    """The older one does ``asleep`` steps, the newer one ``until``; then the older one goes on to
    its end, and the newer one to its."""
    if there:
        (tmp_path / "merged").mkdir()
        (tmp_path / "merged/a").write_text("before")
        seal(tmp_path / "merged")
    old, new = life(tmp_path, 1), life(tmp_path, 2)
    for _ in range(asleep):
        next(old)
    for _ in range(until):
        next(new, None)
    done = content(tmp_path)
    begun = until > 1  # the newer one has come to its second step
    try:
        list(old)
    except (Preempted, FileNotFoundError):
        assert begun
        assert content(tmp_path) == done, "nothing that others read was touched"
    else:
        assert not begun
    list(new)
    assert content(tmp_path)["merged/a"] == content(tmp_path)["merged/b"] == "attempt 2"
    assert manifests.reusable(tmp_path / "merged", "sha256:input"), "whole"


@pytest.mark.parametrize("there", [False, True])
def test_an_attempt_that_slept_after_its_last_look_cannot_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """The newer one begins and ends between the older one's look and each of its renames."""
    for before in range(2):
        workspace = tmp_path / str(before)
        target = workspace / "merged"
        if there:
            target.mkdir(parents=True)
            (target / "a").write_text("before")
            seal(target)
        old = StageAttempt(workspace, "export", 1, UID)
        old.begin()
        made = old.scratch(target)
        (made / "a").write_text("attempt 1")
        seal(made)
        rename, calls = Path.rename, []

        def slow(
            self: Path, to: Path, at: int = before, where: Path = workspace,
            rename: Callable[..., Path] = rename, calls: list[int] = calls,
        ) -> Path:  # fmt: skip
            calls.append(1)
            if len(calls) == at + 1:
                monkeypatch.undo()
                list(life(where, 2))
            return rename(self, to)

        monkeypatch.setattr(module.Path, "rename", slow)
        with pytest.raises(FileNotFoundError):
            old.publish(made, target)
        monkeypatch.undo()
        assert content(workspace)["merged/b"] == "attempt 2"
        assert manifests.reusable(target, "sha256:input")
        assert sorted(path.name for path in workspace.iterdir()) == ["merged", "stages"]


def test_only_earlier_attempts_lose_what_they_work_on(tmp_path: Path) -> None:
    later = StageAttempt(tmp_path, "prepare", 12).scratch(tmp_path / "data")
    earlier = StageAttempt(tmp_path, "prepare", 9).scratch(tmp_path / "data")
    (tmp_path / ".data.tmp.deadbeef").mkdir()  # of a version that gave no numbers
    other = StageAttempt(tmp_path, "prepare", 9).scratch(tmp_path / "data-source")
    StageAttempt(tmp_path, "prepare", 10).clear(tmp_path / "data")
    assert later.exists() and other.exists() and not earlier.exists()
    assert not (tmp_path / ".data.tmp.deadbeef").exists()


@pytest.mark.parametrize("killed", [False, True])
def test_the_output_of_another_job_is_never_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """Nor where the attempt is killed between its two renames."""
    target = tmp_path / "merged"
    target.mkdir()
    (target / "a").write_text("precious")
    seal(target, OTHER)
    attempt = StageAttempt(tmp_path, "export", 0, UID)
    made = attempt.scratch(target)
    (made / "a").write_text("new")
    seal(made)
    if killed:
        target.rename(made.parent / "replaced")
        list(life(tmp_path, 1))
    else:
        attempt.publish(made, target)
    assert (tmp_path / "merged.replaced-uid-two/a").read_text() == "precious"
    assert (target / "a").read_text() == ("attempt 1" if killed else "new")
    assert not list(tmp_path.glob(".*"))


def test_rows_of_a_later_attempt_stay(tmp_path: Path) -> None:
    for name in ("0", "1", "2"):
        (tmp_path / "augment" / name / "in").mkdir(parents=True)
    remove_rows(tmp_path / "augment/1")
    assert [path.name for path in (tmp_path / "augment").iterdir()] == ["2"]
    remove_rows(tmp_path / "augment/2")
    assert not (tmp_path / "augment").exists()


def environment(folder: Path, number: int, **config: Any) -> dict[str, str]:
    (folder / "run.json").write_text(make_config(folder, **config).model_dump_json(by_alias=True))
    return {
        "FINETUNE_ATTEMPT": str(number),
        "FINETUNE_WORKSPACE": str(folder / "ws"),
        "FINETUNE_RUN_JSON": str(folder / "run.json"),
        "FINETUNE_TERMINATION_LOG": str(folder / f"termination-{number}"),
    }


def test_a_real_prepare_that_wakes_up_late_leaves_its_successors_data_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempt 1 runs as a whole in the middle of attempt 0, with other rows by then; both through
    the entry point, so with the number that the pod is given."""
    save_tiny_model(tmp_path / "source")
    rows = tmp_path / "a.jsonl"
    line = json.dumps({"prompt": "What is it?", "response": "A gang."}) + "\n"
    rows.write_text(line.replace("it", "0") + line)
    publish = StageAttempt.publish
    codes: list[int] = []

    def slow(self: StageAttempt, made: Path, target: Path, **more: Any) -> None:
        if self.number == 0 and target.name == "data" and not codes:
            rows.write_text("".join(line.replace("it", str(n)) for n in range(5)))
            codes.append(entry.main(["prepare"], environment(tmp_path, 1)))
        publish(self, made, target, **more)

    monkeypatch.setattr(StageAttempt, "publish", slow)
    assert entry.main(["prepare"], environment(tmp_path, 0)) == Preempted.failure.exit_code
    assert codes == [0]
    assert json.loads((tmp_path / "ws/prepare.json").read_text())["attempt"] == 1
    assert manifests.read_manifest(tmp_path / "ws/data")["rows"] == 5
    last = json.loads((tmp_path / "termination-0").read_text())
    assert last["failure"]["message"] == "attempt 1 of prepare has taken over from attempt 0"
    names = sorted(path.name for path in (tmp_path / "ws").iterdir())
    assert names == ["data", "model", "prepare.json", "stages"]


def test_a_real_export_that_wakes_up_late_publishes_and_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor is there already; not even the training's checkpoints go."""
    save_tiny_model(tmp_path / "source")
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"prompt": "What is it?", "response": "A gang."}) + "\n"
    )
    wish = {"method": {}, "output": {"formats": ["Merged"]}}
    wish["checkpoint"] = {"afterSuccess": "Delete"}
    stage.run(make_config(tmp_path, **wish), tmp_path / "ws")
    attempt = tmp_path / "ws/attempts/0"
    (attempt / "checkpoints/step-5").mkdir(parents=True)
    shutil.copytree(tmp_path / "ws/model", attempt / "model")
    StageAttempt(tmp_path / "ws", "export", 1, UID).begin()
    for call in ("begin", "give_way"):
        if call == "give_way":  # it had begun before its successor did
            monkeypatch.setattr(StageAttempt, "begin", lambda self: None)
        environ = environment(tmp_path, 0, **wish)
        assert entry.main(["export"], environ) == Preempted.failure.exit_code
        assert not list((tmp_path / "ws/output").glob("[!.]*"))
        assert (attempt / "checkpoints/step-5").exists()
        assert not (tmp_path / "ws/export.json").exists()


def test_a_volume_that_cannot_be_listed_keeps_no_outcome_from_being_told(tmp_path: Path) -> None:
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws/stages").write_text("no folder")
    assert entry.main(["prepare"], environment(tmp_path, 0)) != 0
    last = json.loads((tmp_path / "termination-0").read_text())
    assert "stages" in last["failure"]["message"]
