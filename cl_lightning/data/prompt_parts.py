"""Finds the instruction and cue lines that a task's prompts share. Imports no torch."""

from collections.abc import Sequence
from dataclasses import replace

from cl_lightning.data.base import Example, Splits

#: Tokens between instruction and cue that truncation must keep.
LEAST_CONTEXT = 4
#: Share of the prompts that must share a line for it to count as instruction or cue, so that outliers do not matter.
MOST = 0.9


def mark_parts(splits: Splits) -> Splits:
    """Set `Example.instruction` and `Example.cue`: the whole lines with which nearly all training prompts begin or end.

    Prompts without those lines get none. None are marked when all prompts are identical.
    """
    prompts = list({e.prompt for e in splits.train})
    first = _whole_lines(prompts) if len(prompts) > 1 else ""
    # Reversed, to find common endings; the instruction is excluded.
    last = _whole_lines([p.removeprefix(first)[::-1] for p in prompts])[::-1] if len(prompts) > 1 else ""

    def mark(example: Example) -> Example:
        instruction = len(first) if example.prompt.startswith(first) else 0
        cue = len(last) if example.prompt[instruction:].endswith(last) else 0
        return replace(example, instruction=instruction, cue=cue)

    return replace(splits, train=tuple(map(mark, splits.train)), test=tuple(map(mark, splits.test)))


def _whole_lines(texts: Sequence[str]) -> str:
    """Return the longest prefix that most texts share, up to its last line break."""
    # Texts with a common prefix are adjacent when sorted, so a prefix of most of them is one of the middle text.
    middle, found = sorted(texts)[len(texts) // 2], ""
    for end in (i + 1 for i, character in enumerate(middle) if character == "\n"):
        if sum(text.startswith(middle[:end]) for text in texts) < MOST * len(texts):
            break
        found = middle[:end]
    return found
