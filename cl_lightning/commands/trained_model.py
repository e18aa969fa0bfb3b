"""What `predict` and `chat` share: which model, how long its answers are, and that cut prompts are told."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cl_lightning.commands.arguments import Arguments, positive
from cl_lightning.common.terminal import say


def add_model(parser: Arguments) -> None:
    """The options that say which model is used."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or one that --format=native exported")
    parser.add_argument("--after", metavar="TASK", help="the model after this task, or so many; 0: the base")
    parser.add_argument("--max-new-tokens", type=positive, default=256, metavar="N", help="tokens of an answer (256)")
    parser.add_argument(
        "--max-prompt-tokens", type=positive, metavar="N", help="longer prompts lose their middle (as in training)"
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="CLASS", help="classes of your own that the run may name"
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="let code that comes with the base model run")


@contextmanager
def cuts_told() -> Iterator[None]:
    """Tell on standard error, in a line each, of prompts that were cut inside."""
    from cl_lightning.export.loaded import PromptCutWarning

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", PromptCutWarning)
        yield
    for warning in found:
        if warning.category is PromptCutWarning:
            say(f"note: {warning.message}", error=True)
