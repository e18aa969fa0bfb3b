"""`python -m cl_lightning --config experiments/_base.yaml --config experiments/NAME.yaml [--option=value ...]`."""

import os
import sys
from typing import NoReturn

from cl_lightning.common import stopping


def main() -> int:
    """Run an experiment. Exit code 0: done; 1: stopped, state kept; 2: bad input, told in one line."""
    from cl_lightning.commands import precheck
    from cl_lightning.common.errors import UserError
    from cl_lightning.common.terminal import say_error

    try:
        precheck.check(sys.argv[1:])
        from cl_lightning.commands.run import run

        run()
    except UserError as error:
        # Under DDP every rank comes here with the same line; one is enough.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            say_error(error)
        return error.exit_code
    return 0


def command() -> NoReturn:
    """`main` as the shell starts it. Exit code 130: ended by Ctrl-C, 143: by SIGTERM, 129: by a closed terminal."""
    stopping.end_on_signals()
    stopping.leave(main())


if __name__ == "__main__":
    command()
