"""Flags and environment become options, or one sentence."""

from __future__ import annotations

import pytest

from quickstart.__main__ import main
from quickstart.facts import QuestionSet
from quickstart.options import DataKind, Foreign, OptionError, Options, parse


def test_nothing_given_means_the_local_cluster_and_the_facts() -> None:
    assert parse([], {}) == Options()


def test_make_hands_its_variables_on_even_when_they_are_empty() -> None:
    assert parse([], {"CONTEXT": "", "REGISTRY": "", "STORAGE_CLASS": ""}) == Options()


def test_the_environment_names_an_existing_cluster() -> None:
    options = parse([], {"CONTEXT": "prod", "REGISTRY": "r.example/team/", "STORAGE_CLASS": "nfs"})
    assert options.foreign == Foreign("prod", "r.example/team", False, "nfs")


def test_flags_win_over_the_environment() -> None:
    options = parse(
        ["--context", "dev", "--registry", "10.0.0.1:5000", "--plain-http"],
        {"CONTEXT": "prod", "REGISTRY": "r.example/team"},
    )
    assert options.foreign == Foreign("dev", "10.0.0.1:5000", True, None)


def test_a_short_control_run_under_another_name() -> None:
    options = parse(["--short", "--data", "control", "--name", "shuffled"], {})
    assert (options.short, options.data, options.name) == (True, DataKind.CONTROL, "shuffled")


def test_the_frozen_questions_are_asked_unless_the_others_are_wanted() -> None:
    assert parse([], {}).questions is QuestionSet.TEST
    assert parse(["--questions", "dev"], {}).questions is QuestionSet.DEV


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        ([], {"CONTEXT": "prod"}, "CONTEXT needs REGISTRY"),
        ([], {"REGISTRY": "r.example"}, "REGISTRY belongs to an existing cluster"),
        ([], {"STORAGE_CLASS": "nfs"}, "STORAGE_CLASS belongs to an existing cluster"),
        (["--cluster", "mine"], {"CONTEXT": "prod", "REGISTRY": "r"}, "name one of the two"),
        (["--name", "Facts"], {}, "--name Facts"),
        (["--name", "x" * 41], {}, "1 to 40 lower-case letters"),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_sentence(
    arguments: list[str], environment: dict[str, str], says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        parse(arguments, environment)


def test_the_sentence_is_shown_as_it_stands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has square brackets, which would be markup to rich."""
    monkeypatch.setenv("CONTEXT", "prod")
    monkeypatch.delenv("REGISTRY", raising=False)
    assert main([]) == 2
    assert "REGISTRY=host[:port][/path]: a registry that" in capsys.readouterr().out
