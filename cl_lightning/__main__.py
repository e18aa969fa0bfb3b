"""`python -m cl_lightning --config experiments/_base.yaml --config experiments/NAME.yaml [--option=value ...]`."""

import os
import sys

from cl_lightning import precheck
from cl_lightning.errors import UserError
from cl_lightning.terminal import say_error


def main() -> int:
    """Run an experiment. Exit code 0: done; 1: stopped, state kept; 2: bad input, told in one line."""
    try:
        precheck.check(sys.argv[1:])
        from cl_lightning.cli import run

        run()
    except UserError as error:
        # Under DDP every rank comes here with the same line; one is enough.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            say_error(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
