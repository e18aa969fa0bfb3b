"""Errors whose message is written for the user.

Everything the user can fix (configuration, data, checkpoint, model, device) is raised as a `UserError`; the command
line prints it as one line and exits with its code. Any other exception is a defect of this package and keeps its
traceback. No torch here: these errors are raised before it is imported.
"""

import difflib
from collections.abc import Collection, Iterable, Sequence

#: Of more valid names than these, an error on an option lists the nearest alone.
MANY = 25


class UserError(Exception):
    """An error reported in one line: what is wrong, where, what to do. Exit code 2: bad input, before training."""

    exit_code = 2
    #: Printed by every rank that raises it; every error else is the same on all ranks, and rank 0 prints it.
    of_one_rank = False


class ConfigError(UserError):
    """An option, class or combination of options that cannot run."""


class DataError(UserError):
    """A data file or record that cannot be used; the message names the file and the line or record."""


class StateError(UserError):
    """A run folder that is damaged, not readable as a run, of another configuration, or not writable."""


class TrainingError(UserError):
    """Training had to stop (non-finite loss, full disk); completed tasks are kept. Exit code 1."""

    exit_code = 1


def user_error_in(error: BaseException | None) -> UserError | None:
    """Return the UserError in the cause chain of `error`, where a library wrapped it, or None."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def nearest(name: str, valid: Iterable[str]) -> str:
    """Suggest the valid names closest to `name`: "did you mean X? valid: A, B, X".

    Example:
        >>> nearest("FOCM", ["FOMC", "Py150"])
        'did you mean FOMC? valid: FOMC, Py150'
    """
    names = sorted(valid)
    folded = {n.lower(): n for n in names}
    close = [folded[m] for m in difflib.get_close_matches(name.lower(), folded, n=2, cutoff=0.5)]
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}valid: {', '.join(names)}"


def unknown_option(name: str, valid: Collection[str]) -> str:
    """Report an option that its section or class does not have. `name`: as in `model.lrr` or `SliceInit.strenght`."""
    last = name.rpartition(".")[2]
    close = difflib.get_close_matches(last, valid, n=2) if len(valid) > MANY else []
    hint = f"did you mean {' or '.join(close)}?" if close else nearest(last, valid) if valid else "there are none"
    return f"unknown option {name}; {hint}"


def first_three(names: Sequence[str]) -> str:
    """Join the first three names and count the others: "a, b, c and 2 more"."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
