"""Words in messages for users. No torch here."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun, in the plural (`noun` + "s" by default) unless the count is 1.

    Example:
        >>> counted(1, "prompt"), counted(2, "branch", "branches")
        ('1 prompt', '2 branches')
    """
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"
