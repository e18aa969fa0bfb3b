"""`cl-lightning mine NAME [--length=5 ...]`: mine sequences of conflicting tasks from a pool.

The pool is `data.order`, of any benchmark. Conflict shows only once something was learnt, so the first task of the pool
is learnt by an ordinary run with the same options (or taken from `--run`), and the tasks are compared there.
"""

import json
import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path

from cl_lightning.commands import precheck
from cl_lightning.commands.arguments import Arguments
from cl_lightning.commands.experiments import expanded
from cl_lightning.common.errors import ConfigError, StateError, first_three
from cl_lightning.mining.options import MiningOptions
from cl_lightning.sequence.folder import CONFIG, read_record
from cl_lightning.sequence.stored import checked, read_config

#: What is written into the folder of what is found.
RESULT = re.compile(r"cosines\.csv|negative_share\.csv|(conflict|control)-\d+\.yaml")


def parse(argv: list[str]) -> tuple[MiningOptions, list[str]]:
    """Options of the mining, and those of the run: everything else.

    Raises:
        ConfigError: an option that is out of range, in one line.
    """
    parser = Arguments(
        "mine", "Mine sequences of conflicting tasks from a pool (data.order). All options of a run go with it."
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
    parser.add_argument(
        "--allow", action="append", default=[], metavar="CLASS", help="with --run: a class of your own that it may name"
    )
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="with --run: let code that comes with its model run"
    )
    known, rest = parser.parse_known_args(argv)
    options = MiningOptions(**vars(known))
    if not 2 <= options.length <= 8:
        raise ConfigError(f"--length: {options.length} is not in 2..8 (all orders of a set are searched)")
    for name in ("count", "samples", "width"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name}: {getattr(options, name)} must be 1 or more")
    if not options.run and (options.allow or options.trust_remote_code):
        raise ConfigError("--allow and --trust-remote-code go with --run")
    trust = f"--model.backbone.trust_remote_code={str(options.trust_remote_code).lower()}"
    return options, [f"--config={options.run}/{CONFIG}", trust, *rest] if options.run else expanded(rest)


def _check_stored(run: Path, options: MiningOptions) -> None:
    """Refuse a stored configuration that the parser of a run must not see: it takes any class, and fills in ${...}."""
    config = checked(read_config(run, read_record(run)), run / CONFIG, options.allow, options.trust_remote_code)
    if "${" in json.dumps(config, default=str):
        raise StateError(f"{run / CONFIG}: holds ${{...}}, which would be filled in from this machine; take it out")


def refuse_results(out: Path) -> None:
    """Refuse a folder that holds what the mining would write: nothing is overwritten or deleted. Raises ConfigError."""
    if out.is_dir():
        there = [name for name in sorted(os.listdir(out)) if RESULT.fullmatch(name)]
        if there:
            raise ConfigError(
                f"--out: {out} holds results already ({first_three(there)}); move them away, or name another folder"
                f"{f' (--run={out}/first takes the task learnt there)' if (out / 'first').is_dir() else ''}"
            )


def main(argv: list[str]) -> None:
    """Mine as `argv` asks; its other options are those of `cl-lightning run`."""
    options, rest = parse(argv)
    if options.run:
        _check_stored(Path(options.run), options)
    refuse_results(Path(options.out))
    precheck.check(rest)
    from cl_lightning.commands.parser import make_cli, quiet
    from cl_lightning.mining.mine import mine
    from cl_lightning.sequence.stored import restricted_imports

    quiet()
    sys.argv[1:] = rest
    with restricted_imports(options.allow) if options.run else nullcontext():
        cli = make_cli()
    mine(options, cli, rest)
