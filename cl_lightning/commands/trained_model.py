"""Options and warnings that `predict` and `chat` share."""

import warnings
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cl_lightning.commands.arguments import Arguments, add_base, positive
from cl_lightning.common.terminal import say


def add_model(parser: Arguments) -> None:
    """Add the options that select the model and the lengths of prompts and answers."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or a native export")
    parser.add_argument("--after", metavar="TASK", help="the model after this task, or after this many; 0: the base")
    parser.add_argument(
        "--max-new-tokens", type=positive, default=256, metavar="N", help="length limit of an answer (default: 256)"
    )
    parser.add_argument(
        "--max-prompt-tokens",
        type=positive,
        metavar="N",
        help="cut longer prompts in the middle (default: as in training)",
    )
    add_base(parser)


def loading(options: Namespace) -> dict[str, Any]:
    """Return the arguments of `load` that the options give it, but for the run and the task."""
    return {name: getattr(options, name) for name in ("base", "allow", "trust_remote_code")}


@contextmanager
def print_cut_warnings() -> Iterator[None]:
    """Print a note on standard error for each PromptCutWarning of the block."""
    from cl_lightning.export.loaded import PromptCutWarning

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", PromptCutWarning)
        yield
    for warning in found:
        if warning.category is PromptCutWarning:
            say(f"note: {warning.message}", error=True)
