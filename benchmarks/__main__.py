"""``python -m benchmarks [SECTION [OPTION ...]]``: measure, and rewrite that part of the record.

Without a section all of them are measured, one after the other.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import (
    checkpoint_section,
    control_plane_section,
    curves_section,
    data_section,
    first_step_section,
    gpu_section,
    memory_section,
    parity_section,
    recovery_section,
    start_up_section,
    trainer_section,
    training_section,
)
from benchmarks.record import Section, measured

SECTIONS: dict[str, Section] = {
    "control-plane": control_plane_section.SECTION,
    "start-up": start_up_section.SECTION,
    "recovery": recovery_section.SECTION,
    "trainer": trainer_section.SECTION,
    "training": training_section.SECTION,
    "training-full": training_section.FULL,
    "training-rows": training_section.FULL_ROWS,
    "first-step": first_step_section.SECTION,
    "checkpoint": checkpoint_section.SECTION,
    "memory": memory_section.SECTION,
    "data": data_section.SECTION,
    "parity": parity_section.SECTION,
    "curves": curves_section.SECTION,
}
WITH_A_GPU: dict[str, Section] = {"gpu": gpu_section.SECTION}
"""Not among those that are measured where no section is named."""


def main(arguments: list[str]) -> None:
    for one in [arguments] if arguments else [[name] for name in SECTIONS]:
        options = parse(one)
        measured({**SECTIONS, **WITH_A_GPU}[options.section], options, " ".join(one))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="section", required=True)
    for name, section in {**SECTIONS, **WITH_A_GPU}.items():
        section.add_options(commands.add_parser(name, help=section.title))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
