"""The built-in sample: small tasks in the shapes and languages of TRACE, used when there is no data root.

It is synthetic and is not TRACE: every sentence is filled from this package's own templates, so scores on it compare
methods with each other, never with a paper. It is a real test: train and test need the same skill (cue words and rule)
but share no filled sentence and no number; labels are balanced; and no task can be answered from its fixed words alone.
A ninth task, "Sentiment", may be appended to a finished sequence. Imports no torch.
"""

from random import Random

from cl_lightning.common.errors import DataError, nearest
from cl_lightning.data.base import Example, Splits, TaskSpec
from cl_lightning.data.prompt_parts import mark_parts
from cl_lightning.data.sample import code as sample_code
from cl_lightning.data.sample import labels as sample_labels
from cl_lightning.data.sample import numbers as sample_numbers
from cl_lightning.data.sample import science as sample_science
from cl_lightning.data.sample import text as sample_text
from cl_lightning.data.sample.bank import Maker

SIZES: dict[str, int] = {"train": 400, "test": 100}

_MAKERS: dict[str, Maker] = {
    "C-STANCE": sample_labels.c_stance,
    "FOMC": sample_labels.fomc,
    "MeetingBank": sample_text.meeting_bank,
    "Py150": sample_code.py150,
    "ScienceQA": sample_science.science_qa,
    "NumGLUE-cm": sample_numbers.pick_amount,
    "NumGLUE-ds": sample_numbers.count_on,
    "20Minuten": sample_text.zwanzig_minuten,
    "Sentiment": sample_labels.sentiment,
}


def _spec(
    name: str,
    metric: str,
    max_new_tokens: int,
    language: str = "en",
    keep_head: float = 0.5,
    also: tuple[str, ...] = (),
) -> TaskSpec:
    source = f"built-in sample in the shape of {name}: synthetic, not TRACE; licence of this package"
    if name == "Sentiment":
        source = "built-in sample: synthetic, no part of TRACE; licence of this package"
    return TaskSpec(name, metric, max_new_tokens, keep_head, language, source, also=also)


TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        _spec("C-STANCE", "accuracy", 4, "zh"),
        _spec("FOMC", "accuracy", 4),
        _spec("MeetingBank", "rouge_l", 32, also=("bleu",)),
        _spec("Py150", "edit_similarity", 32, "code", keep_head=0.0),
        _spec("ScienceQA", "first_letter", 16, also=("rationale_rouge_l", "rationale_bleu")),
        _spec("NumGLUE-cm", "accuracy", 6),
        _spec("NumGLUE-ds", "accuracy", 6),
        _spec("20Minuten", "sari", 32, "de", also=("bleu", "rouge_l")),
        _spec("Sentiment", "accuracy", 4),
    )
}


def load(name: str) -> Splits:
    """The examples of one sample task, the same on every machine and Python version.

    Raises:
        DataError: `name` is none of `TASKS`.
    """
    if name not in TASKS:
        raise DataError(f"the built-in sample has no task {name!r}; {nearest(name, TASKS)}")
    return mark_parts(Splits(train=_split(name, "train"), test=_split(name, "test")))


def _split(name: str, split: str) -> tuple[Example, ...]:
    """Fill templates until the split is full; a repeated prompt is drawn again.

    The maker gets the running index, so what it takes from the index (label, target) comes in equal shares.
    """
    rng = Random(f"sample/{name}/{split}")
    pairs: dict[str, str] = {}
    for _ in range(50 * SIZES[split]):
        prompt, answer = _MAKERS[name](rng, split, len(pairs))
        pairs.setdefault(prompt, answer)
        if len(pairs) == SIZES[split]:
            break
    else:
        raise AssertionError(f"the templates of {name} are too few for {SIZES[split]} different prompts")
    rows = list(pairs.items())
    rng.shuffle(rows)
    return tuple(Example(f"{name}/{split}/{i}", prompt, answer) for i, (prompt, answer) in enumerate(rows))
