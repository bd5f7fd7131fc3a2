"""``python -m quickstart``: see ``--help``. Exit codes: 0 proved, 1 not, 2 usage, 130 Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from local_cluster.errors import LocalClusterError
from quickstart import screen
from quickstart.display import Display
from quickstart.errors import QuickstartError
from quickstart.journey import Journey
from quickstart.options import OptionError, parse
from quickstart.targets import target


def main(arguments: Sequence[str] | None = None) -> int:
    console = Console()
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
    except OptionError as error:
        console.print(str(error), style="red", highlight=False, markup=False, soft_wrap=True)
        return 2
    # A `kill` ends the run as Ctrl-C does: with its children, and with a word.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    live = console.is_terminal and not options.plain
    display = Display(console, live=live)
    try:
        outcome = Journey(options, target(options), display).run()
    except (QuickstartError, LocalClusterError) as error:
        console.print(f"\n{error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        _stop_children()
        console.print(
            "\nStopped. The same command goes on where it was; a job that was submitted goes on "
            "in the cluster meanwhile.",
            highlight=False,
        )
        console.file.flush()
        # Threads wait for children and the network; nothing of theirs needs an orderly end.
        os._exit(130)
    screen.show(console, outcome)
    return 0 if outcome.proof.holds else 1


def _stop_children() -> None:
    """Builds and downloads end with us; the cluster's daemons have sessions of their own."""
    own = os.getpgrp()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # Fields after the program's name, which may hold blanks and parentheses.
            fields = stat.read_text().rpartition(")")[2].split()
            pid, parent, group = int(stat.parent.name), int(fields[1]), int(fields[2])
            if parent == os.getpid() and group == own:
                os.kill(pid, signal.SIGTERM)
        except (OSError, ValueError):
            continue


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # After a failed stage other stages' threads may still wait for a child: do not wait for them.
    _stop_children()
    os._exit(code)
