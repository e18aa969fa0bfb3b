"""Layout `alpaca`: fields instruction, input and output, as in Stanford Alpaca's data. Imports no torch.

LLaMA-Factory's further fields `system` and `history` (pairs of a question and its answer) are read too.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cl_lightning.common.errors import DataError
from cl_lightning.data.base import Turn
from cl_lightning.data.benchmarks.json_files import kind
from cl_lightning.data.layouts.base import Asked, Layout, Options, field, text
from cl_lightning.data.layouts.conversation import conversation, refuse_not_read, system_of
from cl_lightning.data.layouts.template import Template

#: Separates an instruction from its input.
BETWEEN = "\n\n"


class Alpaca(Layout):
    """The instruction, then the input unless it is blank; `prompt` may be a template over both instead."""

    takes = frozenset({"prompt", "answer", "loss_on"})

    def __init__(self, options: Options, option: str) -> None:
        self.template = Template(options.prompt, f"{option}.prompt") if options.prompt else None
        self.answer = options.answer or "output"

    def read(self, row: Mapping[str, Any], where: str) -> Asked:
        """Join instruction and input behind what was said before."""
        refuse_not_read(row, where)
        row = {**row, "input": "" if row.get("input") is None else row["input"]}
        asked = self._plain(row, where) if self.template is None else self.template.filled(row, where)
        value = field(row, self.answer, where)
        answers = value if isinstance(value, list) else [value]
        made = conversation([*system_of(row, where), *_history(row, where), ("user", asked)], answers)
        if self.template is None or made.turns:
            return made
        return replace(made, instruction=self.template.instruction, cue=self.template.cue)

    def _plain(self, row: Mapping[str, Any], where: str) -> str:
        instruction, given = text(row, "instruction", where), text(row, "input", where)
        asked = BETWEEN.join(part for part in (instruction, given) if part.strip())
        if not asked:
            raise DataError(f"{where}: 'instruction' is empty")
        return asked


def _history(row: Mapping[str, Any], where: str) -> list[Turn]:
    pairs = row.get("history") or []
    if not isinstance(pairs, list):
        raise DataError(f"{where}: 'history' is {kind(pairs)}, expected a list of pairs")
    turns: list[Turn] = []
    for number, pair in enumerate(pairs, start=1):
        place = f"{where}: item {number} of 'history'"
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(f"{place} is not a pair of a question and its answer")
        for role, said in zip(("user", "assistant"), pair, strict=True):
            if not isinstance(said, str) or not said.strip():
                raise DataError(f"{place} has {'a blank' if said == '' else kind(said)}, expected text")
            turns.append((role, said))
    return turns
