"""Runs an experiment: `cl-lightning run NAME [--preset PRESET] [--config FILE] [--option=value]`.

Imports torch only after the options have passed `precheck`.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from cl_lightning.commands import precheck
from cl_lightning.commands.experiments import expanded
from cl_lightning.common import stopping
from cl_lightning.common.memory import frozen_imports
from cl_lightning.common.terminal import inform

#: Options that print something else than a run's lines.
PRINTS = r"-h\b|--([\w.]+\.)?help\b|--print_config\b"


def main(argv: list[str]) -> None:
    """Start or continue a run, given an experiment's name or only options."""
    # The parser and Lightning's launcher of further ranks read sys.argv.
    sys.argv[1:] = expanded(argv)
    precheck.check(sys.argv[1:])
    with nullcontext() if "torch" in sys.modules else _loading():
        from cl_lightning.commands.composition import run

    run()


@contextmanager
def _loading() -> Iterator[None]:
    """Say that the imports inside take time, unless something else than a run is asked for; freeze their objects."""
    if stopping.is_rank_zero() and not any(re.match(PRINTS, word) for word in sys.argv):
        inform("loading PyTorch, Lightning and transformers")
    with frozen_imports():
        yield
