"""Which lines of a task's prompts are instruction and cue, as far as the prompts themselves tell. No torch here."""

from collections.abc import Sequence
from dataclasses import replace

from cl_lightning.data.base import Example, Splits


def marked(splits: Splits) -> Splits:
    """The splits with `Example.instruction` and `Example.cue`: the whole lines that all training prompts begin and
    end with. A test prompt without them keeps none, and neither does any where all training prompts are one."""
    prompts = list({e.prompt for e in splits.train})
    first = _whole_lines(prompts) if len(prompts) > 1 else ""
    # Backwards; what is instruction is no cue.
    last = _whole_lines([p[len(first) :][::-1] for p in prompts])[::-1] if len(prompts) > 1 else ""

    def mark(example: Example) -> Example:
        instruction = len(first) if example.prompt.startswith(first) else 0
        cue = len(last) if example.prompt[instruction:].endswith(last) else 0
        return replace(example, instruction=instruction, cue=cue)

    return replace(splits, train=tuple(map(mark, splits.train)), test=tuple(map(mark, splits.test)))


def _whole_lines(texts: Sequence[str]) -> str:
    """What all texts begin with, up to its last line break."""
    # Of sorted texts the outermost differ first.
    low, high = min(texts), max(texts)
    shared = low[: next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))]
    return shared[: shared.rfind("\n") + 1]
