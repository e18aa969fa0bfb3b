"""Which lines of a task's prompts are instruction and cue, as far as the prompts themselves tell. No torch here."""

from collections.abc import Sequence
from dataclasses import replace

from cl_lightning.data.base import Example, Splits

#: Tokens between instruction and cue that a cut must leave.
LEAST_CONTEXT = 4
#: Share of the prompts that must have a line in common for it to be instruction or cue: a few odd ones change nothing.
MOST = 0.9


def marked(splits: Splits) -> Splits:
    """The splits with `Example.instruction` and `Example.cue`: the whole lines that nearly all different training
    prompts begin and end with. A prompt without them keeps none, and neither does any where all are one."""
    prompts = list({e.prompt for e in splits.train})
    first = _whole_lines(prompts) if len(prompts) > 1 else ""
    # Backwards; what is instruction is no cue.
    last = _whole_lines([p.removeprefix(first)[::-1] for p in prompts])[::-1] if len(prompts) > 1 else ""

    def mark(example: Example) -> Example:
        instruction = len(first) if example.prompt.startswith(first) else 0
        cue = len(last) if example.prompt[instruction:].endswith(last) else 0
        return replace(example, instruction=instruction, cue=cue)

    return replace(splits, train=tuple(map(mark, splits.train)), test=tuple(map(mark, splits.test)))


def _whole_lines(texts: Sequence[str]) -> str:
    """What most texts begin with, up to its last line break."""
    # Texts with one beginning lie together when sorted, so that where they are most the middle one is of them.
    middle, found = sorted(texts)[len(texts) // 2], ""
    for end in (i + 1 for i, character in enumerate(middle) if character == "\n"):
        if sum(text.startswith(middle[:end]) for text in texts) < MOST * len(texts):
            break
        found = middle[:end]
    return found
