from benchmarks.record import RESULTS, Conditions, replaced

RECORD = """# Benchmark record

Preface.

## First

Text of the first.

| a | b |
|---|---|
| 1 | 2 |

## Second

Text of the second.
"""


def test_a_section_is_replaced_and_all_others_stay_as_they_are() -> None:
    changed = replaced(RECORD, "First", "New text.\n\n### Detail\n\nMore.\n")

    assert changed == RECORD.replace(
        "Text of the first.\n\n| a | b |\n|---|---|\n| 1 | 2 |", "New text.\n\n### Detail\n\nMore."
    )


def test_a_new_section_comes_last() -> None:
    assert replaced(RECORD, "Third", "3") == RECORD + "\n## Third\n\n3\n"


def test_writing_a_section_again_changes_nothing() -> None:
    assert replaced(replaced(RECORD, "Third", "3"), "Third", "3") == replaced(RECORD, "Third", "3")


def test_the_record_itself_keeps_its_form() -> None:
    record = RESULTS.read_text()
    title, body = record.split("\n## ", 1)[1].split("\n## ")[0].split("\n", 1)

    assert replaced(record, title, body) == record


def test_conditions_tell_the_command_and_the_load() -> None:
    conditions = Conditions("trainer --steps 3", "2026-01-02", 4, 0.26, 3.0)

    assert conditions.sentence() == (
        'Measured by `make bench ARGS="trainer --steps 3"` on 2026-01-02: 4 cores, '
        "load average 0.3 before and 3.0 after."
    )
