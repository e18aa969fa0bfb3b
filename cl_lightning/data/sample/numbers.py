"""Sample tasks answered by a number: pick the amount asked for, count on or back.

Train and test numbers differ in their first digit, and no sum crosses a hundred, so the splits share no
number, answers included.
"""

from random import Random

from cl_lightning.data.sample.bank import NAMES, Bank, bank

_HUNDREDS = {"train": (1, 3, 4, 6, 7, 9), "test": (2, 5, 8)}

_GOODS = bank(
    "apples, pears, plums, goats, ducks, horses, hammers, saws, drills, cups, lamps, boats",
    "oranges, bananas, dogs, cows, axes, bells, kites, flutes",
)
_OWNS = bank(
    "{name} has {a} {x} and {b} {y}.|At the fair {name} saw {a} {x} and {b} {y}.",
    "{name} drew {a} {x} and {b} {y}.|{name} counted {a} {x} and also {b} {y}.",
    sep="|",
)
_ASKS = bank(
    "How many {x} does {name} have?|What is the number of {x} for {name}?",
    "How many {x} did {name} note?|Of the {x}, how many did {name} find?",
    sep="|",
)

_THINGS = bank(
    "coins, stamps, books, shells, cards, marbles, tickets",
    "badges, pencils, stones, photos, letters",
)
_START = bank("{name} had {n} {things}.|In {name}'s box lay {n} {things}.", "{name} owned {n} {things}.", sep="|")
_CHANGES: dict[int, Bank] = {
    1: bank("Then {name} found one more.|A friend gave {name} one more.", "Today {name} got one more.", sep="|"),
    -1: bank("Then {name} lost one.|A friend took one from {name}.", "Today {name} lost one of them.", sep="|"),
    10: bank("Then {name} found ten more.|A friend gave {name} ten more.", "Today {name} got ten more.", sep="|"),
    -10: bank("Then {name} lost ten.|A friend took ten from {name}.", "Today {name} lost ten of them.", sep="|"),
}
_RESULT = bank("How many {things} has {name} now?", "How many {things} does {name} own now?")


def pick_amount(rng: Random, split: str, index: int) -> tuple[str, str]:
    """Make two amounts of two things; the question asks equally often for the first and the second."""
    x, y = rng.sample(_GOODS[split], 2)
    a, b = _number(rng, split), _number(rng, split)
    name = rng.choice(NAMES[split])
    text = rng.choice(_OWNS[split]).format(name=name, a=a, x=x, b=b, y=y)
    asked, count = ((x, a), (y, b))[index % 2]
    return _problem(text, rng.choice(_ASKS[split]).format(x=asked, name=name)), str(count)


def count_on(rng: Random, split: str, index: int) -> tuple[str, str]:
    """Make a three-digit amount that grows or shrinks by one or ten, in words."""
    step = tuple(_CHANGES)[index % len(_CHANGES)]
    number, name, things = _number(rng, split), rng.choice(NAMES[split]), rng.choice(_THINGS[split])
    start = rng.choice(_START[split]).format(name=name, n=number, things=things)
    change = rng.choice(_CHANGES[step][split]).format(name=name)
    question = rng.choice(_RESULT[split]).format(things=things, name=name)
    return _problem(f"{start} {change}", question), str(number + step)


def _number(rng: Random, split: str) -> int:
    """Draw tens and ones from 1 to 8, so that adding or taking one or ten changes one digit only."""
    return 100 * rng.choice(_HUNDREDS[split]) + 10 * rng.choice(range(1, 9)) + rng.choice(range(1, 9))


def _problem(text: str, question: str) -> str:
    return f"Solve the math problem.\nQuestion:\n{text} {question}\nAnswer:"
