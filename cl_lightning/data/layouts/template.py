"""A prompt template: text with {field}s. Imports no torch."""

from collections.abc import Mapping
from string import Formatter
from typing import Any

from cl_lightning.common.errors import ConfigError, DataError
from cl_lightning.data.layouts.base import text


class Template:
    """Fills the fields of a row into a text.

    Args:
        template: text with {field}s, and {{ and }} for braces.
        option: name of the option in errors.

    Attributes:
        instruction, cue: number of characters before the first field and after the last one.

    Raises:
        ConfigError: not a template, or one without a field.
    """

    def __init__(self, template: str, option: str) -> None:
        try:
            parts = list(Formatter().parse(template))
        except ValueError as error:
            raise ConfigError(f"{option}: {error}; write {{{{ and }}}} for braces") from None
        for _, name, form, conversion in parts:
            if name == "" or form or conversion:
                raise ConfigError(f"{option}: {{{name}}} must be the plain name of a field")
        self._parts = [(before, name) for before, name, _, _ in parts]
        fields = [i for i, (_, name) in enumerate(self._parts) if name is not None]
        if not fields:
            raise ConfigError(f"{option}: has no {{field}}, so all prompts would be the same")
        texts = [len(before) for before, _ in self._parts]
        self.instruction, self.cue = sum(texts[: fields[0] + 1]), sum(texts[fields[-1] + 1 :])

    @property
    def names(self) -> list[str]:
        """Names of the fields."""
        return [name for _, name in self._parts if name is not None]

    def filled(self, row: Mapping[str, Any], where: str) -> str:
        """Fill in a row's fields. Raises DataError for one that is missing, no text, or if all are blank."""
        # Concatenated rather than formatted, because fields may contain braces.
        fields = ["" if name is None else text(row, name, where) for _, name in self._parts]
        if not "".join(fields).strip():
            raise DataError(f"{where}: every field that the prompt uses is blank ({', '.join(self.names)})")
        return "".join(before + value for (before, _), value in zip(self._parts, fields, strict=True))
