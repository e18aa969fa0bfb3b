"""TODO-DOC cl_lightning/commands/data_fetch.py."""

import argparse
from pathlib import Path
from typing import get_args

from cl_lightning.common.errors import UserError
from cl_lightning.common.terminal import say, say_error
from cl_lightning.data.audit.fetch import CACHE, fetch_all
from cl_lightning.data.audit.published import HOST, Use
from cl_lightning.data.benchmarks import trace


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cl_lightning data", description=__doc__)
    parser.add_argument("root", nargs="?", default=str(CACHE), help=f"where to put it; default: {CACHE}")
    uses = [use for use in get_args(Use) if use != "open"]
    parser.add_argument("--accept", nargs="+", choices=uses, default=[], help="terms that suit your use")
    parser.add_argument(
        "--subset",
        nargs="+",
        type=int,
        choices=trace.SUBSETS,
        default=[max(trace.SUBSETS)],
        help="sizes of TRACE; 5000",
    )
    parser.add_argument("--mirror", default=HOST, metavar="URL", help=f"instead of {HOST}")
    options = parser.parse_args()
    root = Path(options.root).expanduser()
    try:
        failed = fetch_all(root, options.accept, options.mirror.rstrip("/"), options.subset)
    except UserError as error:
        failed = [str(error)]
    for line in failed:
        say_error(line)
    if failed:
        return 2
    say(f"use it: make run EXP=NAME DATA={root}")
    return 0
