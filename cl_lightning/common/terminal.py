"""What people read is text: one place that prints a line, with what does not print shown escaped. No torch here."""

import sys
import unicodedata


def shown(text: object) -> str:
    r"""`text` on one line: controls, line ends, direction marks and other characters that do not print, escaped.

    Example:
        >>> print(shown("red: \x1b[31m"))
        red: \x1b[31m
    """
    return "".join(c if _prints(c) else c.encode("unicode_escape").decode() for c in str(text))


def _prints(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # spaces of all widths


def say(text: object, *, error: bool = False) -> None:
    """Print one line, at once; to standard error with `error`."""
    print(shown(text), file=sys.stderr if error else sys.stdout, flush=True)


def say_part(text: str) -> None:
    """Print a part of a text, at once: line ends and tabs stay as they are, all else that does not print is escaped."""
    print("".join(c if c in "\n\t" else shown(c) for c in text), end="", flush=True)


def say_error(error: object) -> None:
    """Print an error in one line, to standard error."""
    say(f"error: {error}", error=True)
