"""The content hash: what names an image, and what must not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from local_cluster.images.digest import content_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "package"
    (root / "sub").mkdir(parents=True)
    (root / "a.py").write_text("one")
    (root / "sub" / "b.py").write_text("two")
    return root


def _touch(root: Path) -> None:
    os.utime(root / "a.py", (1, 1))


def _byte_code(root: Path) -> None:
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")


def _empty_folder(root: Path) -> None:
    (root / "empty").mkdir()


@pytest.mark.parametrize("change", [_touch, _byte_code, _empty_folder])
def test_times_byte_code_and_empty_folders_do_not_count(
    folder: Path, change: Callable[[Path], None]
) -> None:
    before = content_digest([folder])
    change(folder)
    assert content_digest([folder]) == before


def _content(root: Path) -> None:
    (root / "a.py").write_text("other")


def _name(root: Path) -> None:
    (root / "a.py").rename(root / "c.py")


def _place(root: Path) -> None:
    (root / "sub" / "b.py").rename(root / "b.py")


def _executable(root: Path) -> None:
    (root / "a.py").chmod(0o755)


def _one_more(root: Path) -> None:
    (root / "c.py").write_text("")


@pytest.mark.parametrize("change", [_content, _name, _place, _executable, _one_more])
def test_any_change_of_what_the_image_holds_changes_the_hash(
    folder: Path, change: Callable[[Path], None]
) -> None:
    before = content_digest([folder])
    change(folder)
    assert content_digest([folder]) != before


def test_the_same_tree_elsewhere_has_the_same_hash(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "package"
    copy.parent.mkdir()
    before = content_digest([folder])
    folder.rename(copy)
    assert content_digest([copy]) == before


def test_the_border_between_two_texts_counts() -> None:
    assert content_digest(["ab", "c"]) != content_digest(["a", "bc"])


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.lock is missing"):
        content_digest([tmp_path / "nothing.lock"])
