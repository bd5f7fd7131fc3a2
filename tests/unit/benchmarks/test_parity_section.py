"""The table of the parity matrix, from a report as pytest writes it."""

from benchmarks.parity_section import table

CASE = """<testcase name="test_traps_27_and_35_training_equals_plain_torch[{cell}]"><properties>
<property name="losses" value="{losses}"/><property name="gradients" value="{gradients}"/>
<property name="weights" value="{weights}"/></properties></testcase>"""


def case(cell: str, losses: float, gradients: float, weights: float) -> str:
    return CASE.format(cell=cell, losses=losses, gradients=gradients, weights=weights)


def test_each_stage_shows_the_worst_of_its_cells() -> None:
    report = f"""<testsuites><testsuite>
    {case("zero0-full-acc1-1r-SGD", 1e-8, 3e-8, 1e-9)}
    {case("zero0-lora-acc4-2r-AdamW", 2e-8, 1e-8, 4e-6)}
    {case("zero3-full-acc1-3r-SGD", 5e-7, 0.0, 0.0)}
    <testcase name="test_something_else"/>
    </testsuite></testsuites>"""
    text = table(report)
    assert "3 cells" in text
    assert "| 0 | 2 | 2.0e-08 | 3.0e-08 | 4.0e-06 |" in text
    assert "| 3 | 1 | 5.0e-07 | 0.0e+00 | 0.0e+00 |" in text
