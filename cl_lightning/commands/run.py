"""Runs an experiment: `cl-lightning run NAME [--preset PRESET] [--config FILE] [--option=value]`.

Imports torch only after the options have passed `precheck`.
"""

import sys

from cl_lightning.commands import precheck
from cl_lightning.commands.experiments import expanded


def main(argv: list[str]) -> None:
    """Start or continue a run, given an experiment's name or only options."""
    # The parser and Lightning's launcher of further ranks read sys.argv.
    sys.argv[1:] = expanded(argv)
    precheck.check(sys.argv[1:])
    from cl_lightning.commands.composition import run

    run()
