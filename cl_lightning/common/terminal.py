"""Print lines to the terminal with unprintable characters escaped. No torch here."""

import sys
import unicodedata


def printable(text: object) -> str:
    r"""Escape control characters, line ends, direction marks and other unprintable characters of `text`.

    Example:
        >>> print(printable("red: \x1b[31m"))
        red: \x1b[31m
    """
    return "".join(c if _prints(c) else c.encode("unicode_escape").decode() for c in str(text))


def _prints(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # spaces of all widths


def say(text: object, *, error: bool = False) -> None:
    """Print one line and flush; to standard error if `error`."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)


def say_part(text: str) -> None:
    """Print part of a text and flush. Line ends and tabs are kept; other characters that do not print are escaped."""
    print("".join(c if c in "\n\t" else printable(c) for c in text), end="", flush=True)


def say_error(error: object) -> None:
    """Print an error as one line to standard error."""
    say(f"error: {error}", error=True)
