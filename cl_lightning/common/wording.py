"""Words in messages for users. No torch here."""

#: Most characters of a text of the user's that a message shows.
LONGEST = 60


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun, in the plural (`noun` + "s" by default) unless the count is 1.

    Example:
        >>> counted(1, "prompt"), counted(2, "branch", "branches")
        ('1 prompt', '2 branches')
    """
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def duration(seconds: float) -> str:
    """Return a time in hours, minutes and seconds.

    Example:
        >>> duration(45), duration(252), duration(3852)
        ('0:45', '4:12', '1:04:12')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def brief(said: str) -> str:
    """Shorten a text for a message, on one line."""
    said = said if said.isprintable() else said.encode("unicode_escape").decode()
    return said if len(said) <= LONGEST else f"{said[: LONGEST - 3]}..."
