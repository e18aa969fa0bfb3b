"""The command line: `cl-lightning COMMAND ...`, or `python -m cl_lightning COMMAND ...`.

Each command is a module of `cl_lightning.commands` with a `main(argv)`. Signal handlers are installed before any other
import, and heavy imports wait until the command is known.
"""

import os
import signal
import sys

if __name__ == "__main__" or os.path.basename(sys.argv[0]) == "cl-lightning":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # end without a traceback until `stopping` can say what is kept

from typing import NoReturn

from cl_lightning.common import stopping

#: The option of all commands that leaves out progress and notes.
QUIET = "--quiet"


def main() -> int:
    """Run the command that `sys.argv` names; without a name, the options are those of `run`.

    Returns:
        0: done. 1: stopped, with finished work kept. 2: bad input, reported in one line. 141: standard output was
            closed by its reader.
    """
    from importlib import import_module
    from importlib.metadata import version

    from cl_lightning.commands import COMMANDS, READ_ONLY
    from cl_lightning.commands.own_callbacks import load_own_callbacks
    from cl_lightning.common.deferred import defer_scipy
    from cl_lightning.common.errors import ConfigError, UserError, nearest
    from cl_lightning.common.terminal import be_quiet, say, say_error

    given = [word for word in sys.argv[1:] if word != QUIET]
    if len(given) < len(sys.argv) - 1:
        be_quiet()
    sys.argv[1:] = given
    name, *argv = given or ["help"]
    try:
        if name in ("--help", "-h", "help") and not argv:
            say("usage: cl-lightning COMMAND [...]; cl-lightning COMMAND --help says more")
            for listed, command in COMMANDS.items():
                say(f"  {listed:<12} {command.about}", hang=13)
            say(f"  {QUIET:<12} with any command: no progress and no notes; results and errors only", hang=13)
            say(f"  {'--version':<12} print the version", hang=13)
            return 0
        if name == "--version" and not argv:
            say(f"cl-lightning {version('cl-lightning')}")
            return 0
        if name.startswith("-"):
            name, argv = "run", [name, *argv]
        if name not in COMMANDS:
            from cl_lightning.commands.experiments import names

            if name in names():
                raise ConfigError(f"no command {name!r}, but an experiment: cl-lightning run {name}")
            raise ConfigError(f"no command {name!r}; {nearest(name, COMMANDS)}")
        stopping.set_message(COMMANDS[name].stopped)
        load_own_callbacks()
        defer_scipy()
        return import_module(f"cl_lightning.commands.{name.replace('-', '_')}").main(argv) or 0
    except UserError as error:
        # Under DDP every rank has the same error; one line is enough.
        if os.environ.get("LOCAL_RANK", "0") == "0" or error.of_one_rank:
            say_error(error)
        return error.exit_code
    except BrokenPipeError:
        if not stopping.stdout_is_broken():
            raise  # another pipe broke
        stopping.end_on_broken_pipe(silent=name not in COMMANDS or COMMANDS[name].stopped == READ_ONLY)


def _open_standard_streams() -> None:
    """Open standard streams that were closed at the start (`>&-`) on the null device.

    Otherwise the next file opened would take such a descriptor, and receive what is printed.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this descriptor
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def command() -> NoReturn:
    """Run `main` and exit. Exit code 130: ended by Ctrl-C, 143: by SIGTERM, 129: by a closed terminal."""
    _open_standard_streams()
    stopping.end_on_signals()
    stopping.exit_process(main())


if __name__ == "__main__":
    command()
