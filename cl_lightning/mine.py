"""`python -m cl_lightning.mine --config ... [--length=5 ...]`: mine sequences of conflicting tasks from a pool.

The pool is `data.order`, of any benchmark. Conflict shows only once something was learnt, so the first task of the pool
is learnt by an ordinary run with the same options (or taken from `--run`), and the tasks are compared there.
"""

if __name__ == "__main__":
    from cl_lightning import stopping

    stopping.end_on_signals("nothing was written; run the same command again")

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from cl_lightning import precheck
from cl_lightning.errors import ConfigError, UserError
from cl_lightning.state import read_record


@dataclass(frozen=True)
class MiningOptions:
    """What is mined, and where it is written.

    Attributes:
        run: run folder of one finished task; None: learn the pool's first task, in `<out>/first`.
        out: folder of what is found.
        length: tasks in a sequence, 2 to 8.
        count: conflicting sequences written, and control sequences.
        start: "learnt": sequences begin with the task that was learnt; "any": all sets of the pool are searched.
        samples: training examples per task whose gradient is taken.
        width: numbers kept of each matrix's gradient.
    """

    run: str | None
    out: str
    length: int
    count: int
    start: Literal["learnt", "any"]
    samples: int
    width: int


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def parse(argv: list[str]) -> tuple[MiningOptions, list[str]]:
    """Options of the mining, and those of the run: everything else.

    Raises:
        ConfigError: an option that is out of range, in one line.
    """
    parser = _Parser(
        prog="python -m cl_lightning.mine",
        description="Mine sequences of conflicting tasks from a pool (data.order). All options of a run go with it.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", help="folder of a run with one finished task; else the pool's first task is learnt")
    parser.add_argument("--out", default="runs/mined", help="folder of what is found (runs/mined)")
    parser.add_argument("--length", type=int, default=5, help="tasks in a sequence, 2 to 8 (5)")
    parser.add_argument("--count", type=int, default=3, help="sequences to write, and controls (3)")
    parser.add_argument(
        "--start", choices=("learnt", "any"), default="learnt", help="what sequences begin with (the task learnt)"
    )
    parser.add_argument("--samples", type=int, default=64, help="training examples per task (64)")
    parser.add_argument("--width", type=int, default=4096, help="numbers kept of each matrix's gradient (4096)")
    known, rest = parser.parse_known_args(argv)
    options = MiningOptions(**vars(known))
    if not 2 <= options.length <= 8:
        raise ConfigError(f"--length: {options.length} is not in 2..8 (all orders of a set are searched)")
    for name in ("count", "samples", "width"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name}: {getattr(options, name)} must be 1 or more")
    return options, [f"--config={options.run}/config.yaml", *rest] if options.run else rest


def main() -> int:
    """Exit code 0: done; 1: the run of the first task stopped; 2: bad input, told in one line."""
    try:
        options, argv = parse(sys.argv[1:])
        if options.run:
            read_record(Path(options.run))
        precheck.check(argv)
        from cl_lightning.mining import mine

        mine(options, argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    stopping.leave(main())
