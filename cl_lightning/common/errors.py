"""Errors whose message is written for the person at the keyboard.

Everything the user can put right (configuration, data, checkpoint, model, device) is raised as a
`UserError`; the command line prints its one line and exits with its code. Anything else is a defect
of ours and keeps its traceback. No torch here: these are raised before it is imported.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """One clear line: what is wrong, where, what to do. `exit_code` 2: bad input, found before training."""

    exit_code = 2


class ConfigError(UserError):
    """An option, class or combination of options that cannot run."""


class DataError(UserError):
    """A data file or record that cannot be used; the message names file and line or record."""


class StateError(UserError):
    """A run folder that is damaged, foreign, of another configuration, or cannot be written."""


class TrainingError(UserError):
    """Training had to stop (non-finite loss, full disk); completed tasks are kept. Exit code 1."""

    exit_code = 1


def user_error_in(error: BaseException | None) -> UserError | None:
    """The UserError that a library has wrapped in errors of its own, if any."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def nearest(name: str, valid: Iterable[str]) -> str:
    """Say which valid names are meant: "did you mean X? valid: A, B, X".

    Example:
        >>> nearest("FOCM", ["FOMC", "Py150"])
        'did you mean FOMC? valid: FOMC, Py150'
    """
    names = sorted(valid)
    folded = {n.lower(): n for n in names}
    close = [folded[m] for m in difflib.get_close_matches(name.lower(), folded, n=2, cutoff=0.5)]
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}valid: {', '.join(names)}"
