"""Sample task in Python: predict the next line of tokenised code, `<EOL>` after each line.

The next line follows from a pattern that the prompt has just shown or begun; identifiers differ by split.
"""

from random import Random

from cl_lightning.data.sample.bank import bank

_FIELDS = bank(
    "width, depth, speed, color, label, weight, price, angle, title, owner, level, volume",
    "height, length, radius, shape, author, amount, mass, region",
)
_OBJECTS = bank("box, tank, car, lamp, cart, pipe, room, tree", "boat, card, desk, door, flag")
_VERBS = bank("read, find, pack, clean, merge, check", "sort, load, scan, trim")

_PATTERNS: tuple[tuple[str, str], ...] = (
    (
        "def {v}_{o} ( {a} , {b} ) : <EOL> if {a} is None : <EOL> raise ValueError ( '{a}' ) <EOL> "
        "if {b} is None : <EOL>",
        "raise ValueError ( '{b}' )",
    ),
    (
        "{o}_list = [ ] <EOL> for {o} in {v}_all ( {a} ) : <EOL> if {o} . {b} : <EOL>",
        "{o}_list . append ( {o} )",
    ),
    (
        "{o}_keys = [ '{a}' , '{b}' ] <EOL> def {v} ( {o} ) : <EOL> {a} = int ( {o} [ '{a}' ] ) <EOL>",
        "{b} = int ( {o} [ '{b}' ] )",
    ),
    (
        "def set_{a} ( {o} , {a} ) : <EOL> {o} . {a} = {a} <EOL> def set_{b} ( {o} , {b} ) : <EOL>",
        "{o} . {b} = {b}",
    ),
)


def py150(rng: Random, split: str, index: int) -> tuple[str, str]:
    """Make tokenised code and its next line."""
    prompt, line = _PATTERNS[index % len(_PATTERNS)]
    a, b = rng.sample(_FIELDS[split], 2)
    words = {"a": a, "b": b, "o": rng.choice(_OBJECTS[split]), "v": rng.choice(_VERBS[split])}
    return f"<s> {prompt.format(**words)}", line.format(**words)
