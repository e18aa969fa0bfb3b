"""Runs an experiment: `cl-lightning run NAME [--preset PRESET] [--config FILE] [--option=value]`.

Imports torch only after the options have passed `precheck`.
"""

import re
import sys

from cl_lightning.commands import precheck
from cl_lightning.commands.experiments import expanded
from cl_lightning.common import stopping
from cl_lightning.common.memory import gc_paused
from cl_lightning.common.terminal import inform

#: Options that print something else than a run's lines.
PRINTS = r"-h\b|--([\w.]+\.)?help\b|--print_config\b"


def main(argv: list[str]) -> None:
    """Start or continue a run, given an experiment's name or only options."""
    # The parser and Lightning's launcher of further ranks read sys.argv.
    sys.argv[1:] = expanded(argv)
    precheck.check(sys.argv[1:])
    if "torch" not in sys.modules and stopping.is_rank_zero() and not any(re.match(PRINTS, word) for word in sys.argv):
        inform("loading PyTorch, Lightning and transformers")
    with gc_paused():
        from cl_lightning.commands.composition import run

    run()
