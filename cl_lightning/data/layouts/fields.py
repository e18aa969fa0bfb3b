"""Layout `fields`: a prompt template over the fields of a row, and a field with the answer. Imports no torch."""

from collections.abc import Mapping
from typing import Any

from cl_lightning.data.layouts.base import Asked, Layout, Options, field
from cl_lightning.data.layouts.template import Template


class Fields(Layout):
    """A template over fields. A list in the answer field holds several correct answers."""

    takes = needs = frozenset({"prompt", "answer"})

    def __init__(self, options: Options, option: str) -> None:
        self.template = Template(options.prompt or "", f"{option}.prompt")
        self.answer = options.answer or ""

    def read(self, row: Mapping[str, Any], where: str) -> Asked:
        """Fill the template and take the answer."""
        filled = self.template.filled(row, where)
        value = field(row, self.answer, where)
        answers = value if isinstance(value, list) else [value]
        return Asked(filled, answers, instruction=self.template.instruction, cue=self.template.cue)
