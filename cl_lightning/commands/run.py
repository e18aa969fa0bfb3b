"""Run an experiment: `cl-lightning run NAME [--preset PRESET] [--option=value ...]`.

Imports torch only once the options are checked.
"""

import sys

from cl_lightning.commands import precheck
from cl_lightning.commands.experiments import expanded


def main(argv: list[str]) -> None:
    """Train on a sequence of tasks, or continue: an experiment by name, or options alone."""
    # The parser, and Lightning's launcher of further ranks, read sys.argv.
    sys.argv[1:] = expanded(argv)
    precheck.check(sys.argv[1:])
    from cl_lightning.commands.composition import run

    run()
