"""Downloads published data: `cl-lightning data [FOLDER]`."""

from typing import get_args

from cl_lightning.commands.arguments import Arguments
from cl_lightning.common.paths import in_home
from cl_lightning.common.terminal import say, say_error
from cl_lightning.data.audit.fetch import CACHE, fetch_all
from cl_lightning.data.audit.published import HOST, Use
from cl_lightning.data.benchmarks import trace


def main(argv: list[str]) -> int:
    """Download the files whose terms allow it, and list those to download by hand."""
    parser = Arguments("data", __doc__)
    parser.add_argument("root", nargs="?", default=str(CACHE), help=f"destination (default: {CACHE})")
    uses = [use for use in get_args(Use) if use != "open"]
    parser.add_argument(
        "--accept",
        nargs="+",
        choices=uses,
        default=[],
        metavar="TERMS",
        help=f"terms that you accept: {', '.join(uses)}",
    )
    parser.add_argument(
        "--subset",
        nargs="+",
        type=int,
        choices=trace.SUBSETS,
        default=[max(trace.SUBSETS)],
        help="sizes of TRACE (default: 5000)",
    )
    parser.add_argument("--mirror", default=HOST, metavar="URL", help=f"host to use instead of {HOST}")
    options = parser.parse_args(argv)
    root = in_home(options.root, "data.root")
    failed = fetch_all(root, options.accept, options.mirror.rstrip("/"), options.subset)
    for line in failed:
        say_error(line)
    if failed:
        return 2
    say(f"to use it: make run EXP=NAME DATA={root}")
    return 0
