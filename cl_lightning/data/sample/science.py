"""Sample task with three choices: a small experiment, answered with a letter and a reason."""

from random import Random

from cl_lightning.data.sample.bank import NAMES, bank

LETTERS = "ABC"

_VESSELS = bank("cup, pot, jar, dish, bottle", "tray, bowl, glass, tube")
_TRIALS: tuple[tuple[str, str, str], ...] = (
    ("ice", "stood in the sun. Where did the ice of {name} melt first?", "got the most heat"),
    ("seeds", "got water. Where did the seeds of {name} grow?", "was not dry"),
    ("sugar", "held hot tea. Where did the sugar of {name} dissolve first?", "was the warmest"),
    ("nails", "got wet. Where did the nails of {name} rust?", "had water in it"),
)
"""Content of the three vessels, treatment of one of them with the question, and reason for the answer."""


def science_qa(rng: Random, split: str, index: int) -> tuple[str, str]:
    """The letter is the vessel that was treated differently; letters and experiments come in equal shares."""
    letter, (stuff, treatment, why) = LETTERS[index % 3], _TRIALS[index // 3 % len(_TRIALS)]
    name, vessel = rng.choice(NAMES[split]), rng.choice(_VESSELS[split])
    text = f"{name} put {stuff} in each {vessel}, and only {vessel} {letter} {treatment.format(name=name)}"
    choices = "\n".join(f"{each}. {vessel} {each}" for each in LETTERS)
    prompt = f"Choose an answer and give your reason.\n\nQuestion:\n{text}\n\nChoices:\n{choices}\n\nAnswer:"
    return prompt, f"{letter}\nThe {vessel} of {name} {why}."
