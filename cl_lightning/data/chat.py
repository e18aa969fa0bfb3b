"""Renders a tokenizer's chat template, with everything but the messages fixed.

A template may write today's date (`strftime_now(..)` of transformers' environment, or Llama's variable `date_string`),
insert a system message of its own if none is given, refuse one, or change the text it is given. Imports no torch.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from itertools import takewhile
from re import escape, search
from typing import TYPE_CHECKING, Any

from cl_lightning.common.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Default of `data.date`. A constant, so that a configuration gives the same tokens on any day.
DAY = "2024-07-26"
#: Placeholder for a message's text: no template writes it or changes its case.
PROBE = "9170352846190357"
#: Placeholder for a system message's text.
SYSTEM_PROBE = PROBE[::-1]

Message = dict[str, str]

#: Ends what `fix` puts before a template. The template must begin a line, or jinja would keep other whitespace.
_END = "{% set fixed_before_this = true %}\n"
#: Flags that strftime takes between % and a letter: padding and case.
_FLAGS = "-_0^#"
#: Variables that rendering itself sets.
_GIVEN = ("messages", "add_generation_prompt", "strftime_now")
_REMEDY = "correct the template beside the model, or use another model"
#: One day per month, with different years, days and weekdays: a template may use only a part of the date.
_DAYS = tuple(f"{1990 + 3 * month}-{month:02}-{29 - 2 * month - month % 2:02}" for month in range(1, 13))


def parsed_day(text: str) -> date:
    """Parse a day written as 2024-07-26. Raises ConfigError."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:
        raise ConfigError(f"data.date: {text!r} is not a date; write it as {DAY}")
    return day


def check_variables(variables: Mapping[str, Any]) -> None:
    """Raise ConfigError for variables that cannot be passed to a template."""
    for name, value in variables.items():
        if not name.isidentifier() or name in _GIVEN:
            raise ConfigError(f"data.template_args: {name!r} cannot be given to a chat template; leave it out")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ConfigError(
                f"data.template_args.{name}: {value!r} is not text, number, boolean, null, list or mapping; quote it"
            ) from None


def fix(tokenizer: PreTrainedTokenizerBase, day: str, variables: Mapping[str, Any]) -> None:
    """Write day and variables into the tokenizer's chat template, replacing those of an earlier call.

    Args:
        day: value of `strftime_now` and, in Llama's form (26 Jul 2024), of `date_string`.
        variables: further variables of the template; they override `date_string`.

    Raises:
        ConfigError: an invalid day or variable, a variable that the template does not read, or no default template.
    """
    template = _own(tokenizer)
    check_variables(variables)
    for name in variables:
        if not search(rf"\b{escape(name)}\b", template):
            raise ConfigError(
                f"data.template_args: the model's chat template reads no variable {name!r}; correct its name, or leave "
                "it out"
            )
    tokenizer.chat_template = _before(parsed_day(day), variables) + template


def _own(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the template without what `fix` has put before it."""
    templates = tokenizer.chat_template
    if isinstance(templates, dict) and "default" not in templates:
        raise ConfigError(
            f"model.backbone.name: {_model(tokenizer)} has several chat templates ({', '.join(templates)}), none of "
            "them called default; give one of them that name"
        )
    return tokenizer.get_chat_template().rpartition(_END)[2]


def _model(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.name_or_path or "the model"


def _before(day: date, variables: Mapping[str, Any]) -> str:
    """Return the text that `fix` puts before a template; transformers does not let callers pass functions instead."""
    moment = datetime.combine(day, time())
    letters = string.ascii_letters.replace("s", "")  # %s depends on the time zone
    parts = [f"%{flag}{letter}" for letter in letters for flag in ("", *_FLAGS)]
    # One string, because jinja compiles a mapping slowly.
    table = "".join(f"\0{part}\1{moment.strftime(part)}" for part in parts) + "\0%%\1%\0"
    known = {"date_string": f"{day:%d %b %Y}", **variables}
    return (
        f"{{% macro strftime_now(format) %}}{{% set pending = namespace(part='') %}}{{% set table = {table!r} %}}"
        "{% for character in format %}{% set pending.part = pending.part + character %}"
        f"{{% if pending.part not in {['%', *(f'%{flag}' for flag in _FLAGS)]!r} %}}"
        r"{% set found = table.partition('\0' + pending.part + '\1') %}"
        r"{{ found[2].partition('\0')[0] if found[1] else pending.part }}{% set pending.part = '' %}"
        "{% endif %}{% endfor %}{{ pending.part }}{% endmacro %}"
        + "".join(f"{{% set {name} = {value!r} %}}" for name, value in known.items())
        + _END
    )


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], **options: Any) -> str:
    """Render a conversation as text. `options`: those of `apply_chat_template`.

    Raises:
        ConfigError: the template fails. It is the model's code and may raise any exception.
    """
    try:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
    except Exception as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ConfigError(
            f"model.backbone.name: {_model(tokenizer)}'s chat template cannot write a conversation of {roles} "
            f"({_one_line(error)}); {_REMEDY}"
        ) from error


def failed(tokenizer: PreTrainedTokenizerBase, error: Exception) -> ConfigError:
    """Say that a template fails, not for which conversation."""
    return ConfigError(f"model.backbone.name: {_model(tokenizer)}'s chat template fails ({_one_line(error)})")


def tried(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], **options: Any
) -> tuple[str | None, ConfigError | None]:
    """Render a conversation, or return the error that `render` raises."""
    try:
        return render(tokenizer, messages, **options), None
    except ConfigError as error:
        return None, error


def around(text: str) -> tuple[str, str]:
    """Split a rendering at PROBE into the text before and after. Raises ConfigError if PROBE is missing."""
    before, found, _ = text.partition(PROBE)
    if not found:
        raise ConfigError(f"model.backbone.name: the model's chat template omits the user's message; {_REMEDY}")
    return before, text.rpartition(PROBE)[2]


def between(text: str, before: str, after: str) -> tuple[int, int]:
    """Find the span between `before` and `after` in a rendering, without surrounding whitespace.

    Raises:
        ConfigError: the rendering does not begin and end with them, or has nothing between.
    """
    start, end = len(before), len(text) - len(after)
    if start > end or not (text.startswith(before) and text.endswith(after)):
        raise ConfigError(
            f"model.backbone.name: the model's chat template writes different text around this prompt than around "
            f"others; {_REMEDY}"
        )
    written = text[start:end]
    if not written.strip():
        raise ConfigError(f"model.backbone.name: the model's chat template omits this prompt; {_REMEDY}")
    start += len(written) - len(written.lstrip())
    return start, start + len(written.strip())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class ChatPrompt:
    """Renders one user message with a chat template, and finds it in the rendered prompt.

    Args:
        tokenizer: a tokenizer with a chat template, which is fixed in place (`fix`).
        system_prompt: system message; None leaves it to the template. "" (or a blank text) sends none if the template
            works without one, and an empty one if the template would otherwise insert its own.
        day, variables: see `fix`.

    Attributes:
        system: the system message that is sent, [] or [message].
        dated: whether the template writes a day.

    Raises:
        ConfigError: the template fails, writes nothing of the message, takes no system message where one is wanted,
            needs one where none is, or keeps its own where `system_prompt` is "".
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None, day: str, variables: Mapping[str, Any]
    ) -> None:
        fix(tokenizer, day, variables)
        self.tokenizer = tokenizer
        self.system = self._system(system_prompt)
        today = self.text(PROBE)
        self.before, self.after = around(today)
        self.dated = any(self.text(PROBE, chat_template=self._on(day, variables)) != today for day in _DAYS)

    def text(self, content: str, **options: Any) -> str:
        """Render the prompt for `content`, up to the beginning of the assistant's turn."""
        messages = [*self.system, {"role": "user", "content": content}]
        return render(self.tokenizer, messages, add_generation_prompt=True, **options)

    def _on(self, day: str, variables: Mapping[str, Any]) -> str:
        return _before(parsed_day(day), variables) + _own(self.tokenizer)

    def _system(self, prompt: str | None) -> list[Message]:
        """Return the system message to send for a system prompt, [] or [message]."""
        (without, fault), (empty, _), (given, refused) = map(self._tried, ([], _message(""), _message(SYSTEM_PROBE)))
        written = [text for text in (given, empty, without) if text is not None]
        if not written:
            raise fault
        if prompt is not None and prompt.strip():
            refused = refused or self._tried(_message(prompt))[1]
            if refused or SYSTEM_PROBE not in given:
                raise ConfigError(
                    f"data.system_prompt: the model's chat template takes no system message{_why(refused)}; set "
                    "data.system_prompt='', or null, and say it in the tasks' own instructions"
                )
            return _message(prompt)
        choices = [([], without)] if prompt is None else [([], without), (_message(""), empty)]
        choices = [(system, text) for system, text in choices if text is not None]
        if not choices:
            raise ConfigError(
                f"data.system_prompt: the model's chat template needs a system message{_why(fault)}; set "
                "data.system_prompt to a text"
            )
        around_it = written[0].replace(SYSTEM_PROBE, "")
        plain = [system for system, text in choices if prompt is None or not _adds(text, around_it)]
        if not plain:
            raise ConfigError(
                "data.system_prompt: the model's chat template writes a system message of its own where it is given "
                "none or an empty one; set data.system_prompt to a text of yours, or null to keep the template's"
            )
        return plain[0]

    def _tried(self, system: Sequence[Message]) -> tuple[str | None, ConfigError | None]:
        return tried(self.tokenizer, [*system, {"role": "user", "content": PROBE}], add_generation_prompt=True)


def _message(text: str) -> list[Message]:
    return [{"role": "system", "content": text}]


def _why(fault: ConfigError | None) -> str:
    return f" ({_one_line(fault.__cause__)})" if fault else ""


def _adds(text: str, other: str) -> bool:
    """Return whether `text` has anything but whitespace that `other` lacks."""
    shared, ending = _alike(text, other), _alike(text[::-1], other[::-1])
    return bool(text[shared : max(shared, len(text) - ending)].strip())


def _alike(one: str, other: str) -> int:
    """Return the length of the common prefix."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
