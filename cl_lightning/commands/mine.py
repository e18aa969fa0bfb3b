"""Mines sequences of conflicting tasks from a pool: `cl-lightning mine NAME [--length=5 ...]`.

The pool is `data.order`, of any benchmark. Conflicts show only after some training, so an ordinary run with the same
options first trains the first task of the pool (or `--run` names such a run), and the tasks are compared there.
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
from cl_lightning.model.moved_base import base_may_move
from cl_lightning.sequence.folder import CONFIG, read_record
from cl_lightning.sequence.stored import checked, read_config

#: Names of the files written into the output folder.
RESULT = re.compile(r"cosines\.csv|negative_share\.csv|(conflict|control)-\d+\.yaml")


def parse(argv: list[str]) -> tuple[MiningOptions, list[str]]:
    """Split `argv` into the options of mining and those of the run.

    Raises:
        ConfigError: an option is out of range.
    """
    parser = Arguments(
        "mine", "Mine sequences of conflicting tasks from a pool (data.order). All options of `run` are accepted, too."
    )
    parser.add_argument("--run", help="folder of a run with one finished task; else the pool's first task is trained")
    parser.add_argument("--out", default="runs/mined", help="output folder (default: runs/mined)")
    parser.add_argument("--length", type=int, default=5, help="tasks per sequence, 2 to 8 (default: 5)")
    parser.add_argument(
        "--count", type=int, default=3, help="number of sequences to write, and of controls (default: 3)"
    )
    parser.add_argument(
        "--start",
        choices=("learnt", "any"),
        default="learnt",
        help="first task of sequences (default: learnt)",
    )
    parser.add_argument("--samples", type=int, default=64, help="training examples per task (default: 64)")
    parser.add_argument("--width", type=int, default=4096, help="sketch size of each matrix's gradient (default: 4096)")
    parser.add_argument("--base", metavar="MODEL", help="with --run: where its base model is now, if it has moved")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="CLASS",
        help="with --run: a class of your own that it may name",
    )
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="with --run: allow its model to run its own code"
    )
    known, rest = parser.parse_known_args(argv)
    options = MiningOptions(**vars(known))
    if not 2 <= options.length <= 8:
        raise ConfigError(f"--length: {options.length} is not in 2..8 (all orders of a set are searched)")
    for name in ("count", "samples", "width"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name}: {getattr(options, name)} must be 1 or more")
    if not options.run and (options.base or options.allow or options.trust_remote_code):
        raise ConfigError("--base, --allow and --trust-remote-code go with --run")
    moved = [f"--model.backbone.name={options.base}"] if options.base else []
    trust = f"--model.backbone.trust_remote_code={str(options.trust_remote_code).lower()}"
    return options, [f"--config={options.run}/{CONFIG}", trust, *moved, *rest] if options.run else expanded(rest)


def _check_stored(run: Path, options: MiningOptions) -> None:
    """Refuse a stored configuration with foreign classes or ${...}, since the parser of a run accepts any class and
    fills in ${...}."""
    config = checked(read_config(run, read_record(run)), run / CONFIG, options.allow, options.trust_remote_code)
    if "${" in json.dumps(config, default=str):
        raise StateError(f"{run / CONFIG}: holds ${{...}}, which would be filled in from this machine; take it out")


def refuse_results(out: Path) -> None:
    """Raise ConfigError if the output folder already holds results; none are overwritten or deleted."""
    if out.is_dir():
        there = [name for name in sorted(os.listdir(out)) if RESULT.fullmatch(name)]
        if there:
            raise ConfigError(
                f"--out: {out} holds results already ({first_three(there)}); move them away, or name another folder"
                f"{f' (--run={out}/first takes the task learnt there)' if (out / 'first').is_dir() else ''}"
            )


def main(argv: list[str]) -> None:
    """Mine with the options in `argv`; its other options are those of `cl-lightning run`."""
    options, rest = parse(argv)
    if options.run:
        _check_stored(Path(options.run), options)
    refuse_results(Path(options.out))
    with base_may_move() if options.run else nullcontext():
        _mine(options, rest)


def _mine(options: MiningOptions, rest: list[str]) -> None:
    precheck.check(rest)
    from cl_lightning.commands.parser import make_cli
    from cl_lightning.common.noise import silence
    from cl_lightning.mining.mine import mine
    from cl_lightning.sequence.stored import restricted_imports

    silence()
    sys.argv[1:] = rest
    with restricted_imports(options.allow) if options.run else nullcontext():
        cli = make_cli()
    mine(options, cli, rest)
