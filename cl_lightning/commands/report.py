"""TODO-DOC cl_lightning/commands/report.py."""

import sys
from pathlib import Path

from cl_lightning.common.errors import UserError
from cl_lightning.common.terminal import say, say_error
from cl_lightning.results.report import show


def main() -> int:
    if len(sys.argv) != 2:
        say("usage: python -m cl_lightning report RUN_FOLDER", error=True)
        return 2
    try:
        show(Path(sys.argv[1]))
    except UserError as error:
        say_error(error)
        return error.exit_code
    return 0
