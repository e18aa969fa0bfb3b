"""Print lines to the terminal: unprintable characters escaped, wrapped to the terminal's width. No torch here."""

import os
import sys
import unicodedata
from typing import TextIO


class _Settings:
    quiet: bool = False


def be_quiet() -> None:
    """Print results and errors only, from now on: no progress, and nothing by `inform`. The option --quiet."""
    _Settings.quiet = True


def is_quiet() -> bool:
    """Return whether only results and errors are printed."""
    return _Settings.quiet


def printable(text: object) -> str:
    r"""Escape control characters, line ends, direction marks and other unprintable characters of `text`.

    Example:
        >>> print(printable("red: \x1b[31m"))
        red: \x1b[31m
    """
    return "".join(c if _prints(c) else c.encode("unicode_escape").decode() for c in str(text))


def _prints(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # spaces of all widths


def say(text: object, *, error: bool = False, hang: int = 2) -> None:
    """Print one line and flush; to standard error if `error`. A terminal gets it wrapped.

    Args:
        hang: columns by which the lines after the first are indented more than the first.
    """
    stream, line = sys.stderr if error else sys.stdout, printable(text)
    columns = _columns(stream)
    print(line if columns is None else wrapped(line, columns, hang), file=stream, flush=True)


def inform(text: object, *, hang: int = 2) -> None:
    """`say` something about the progress of the command, which is no result of it; not with --quiet."""
    if not is_quiet():
        say(text, hang=hang)


def wrapped(line: str, columns: int, hang: int = 2) -> str:
    """Wrap a line at spaces, by the width of characters in terminal cells.

    A longer word stays whole, so that a path or a command can be copied.
    """
    from rich.cells import cell_len

    if cell_len(line) <= columns:
        return line
    body = line.lstrip(" ")
    start = len(line) - len(body)
    words = body.split(" ")
    lines = [" " * start + words[0]]
    for word in words[1:]:
        if cell_len(lines[-1]) + 1 + cell_len(word) <= columns:
            lines[-1] += f" {word}"
        else:
            lines.append(" " * min(start + hang, columns // 2) + word)
    return "\n".join(lines)


def _columns(stream: TextIO | None) -> int | None:
    """Return the width of the terminal that a stream is, or None if it is none."""
    if stream is None or not stream.isatty():
        return None
    given = os.environ.get("COLUMNS", "")
    try:
        return int(given) if given.isdecimal() and int(given) else os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):  # a stream of its own kind, as in notebooks
        return None


def say_text(text: str) -> None:
    """Print a text of several lines as it is, for other programs: characters are escaped as by `say`, nothing wraps."""
    for line in text.removesuffix("\n").split("\n"):
        print(printable(line), flush=True)


def say_part(text: str) -> None:
    """Print part of a text and flush. Line ends and tabs are kept; other characters that do not print are escaped."""
    print("".join(c if c in "\n\t" else printable(c) for c in text), end="", flush=True)


def say_error(error: object) -> None:
    """Print an error as one line to standard error."""
    say(f"error: {error}", error=True)
