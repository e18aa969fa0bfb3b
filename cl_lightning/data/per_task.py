"""Options of single tasks (`data.per_task`). Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from cl_lightning.common.errors import ConfigError, nearest
from cl_lightning.common.numbers import Finite, Integer
from cl_lightning.data.base import Example, Splits, TaskSpec
from cl_lightning.data.layouts.conversation import conversation
from cl_lightning.data.layouts.template import Template
from cl_lightning.data.streamed import changed

#: Options that replace those of the task's specification.
OF_THE_TASK = ("metric", "also", "max_new_tokens", "keep_head", "system_prompt", "max_prompt_tokens")
#: Least values.
LEAST = {
    **dict.fromkeys(
        ("max_new_tokens", "max_prompt_tokens", "max_answer_tokens", "train_samples", "test_samples"), 1
    ),
    "validation_samples": 0,
}  # fmt: skip


@dataclass(frozen=True)
class TaskOptions:
    """Options of one task, under its name in `data.per_task`; null: those of all tasks.

    Attributes:
        prompt: text with {prompt}, which stands for what the task asks.
        metric: key of `cl_lightning.metrics.registry.METRICS`.
        also: further metrics, reported beside the score.
        system_prompt: as `data.system_prompt`.
        max_new_tokens: generation budget when scoring, in tokens.
        max_prompt_tokens: as `data.max_prompt_tokens`.
        max_answer_tokens: as `data.max_answer_tokens`.
        keep_head: fraction of a cut prompt that is kept of its start; the rest is kept of its end.
        train_samples: as `data.train_samples`.
        validation_samples: as `data.validation_samples`.
        test_samples: as `data.test_samples`.
    """

    prompt: str | None = None
    metric: str | None = None
    also: list[str] | None = None
    system_prompt: str | None = None
    max_new_tokens: Integer | None = None
    max_prompt_tokens: Integer | None = None
    max_answer_tokens: Integer | None = None
    keep_head: Finite | None = None
    train_samples: Integer | None = None
    validation_samples: Integer | None = None
    test_samples: Integer | None = None

    def given(self) -> dict[str, object]:
        """Return the options that are not null."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


PerTask = dict[str, TaskOptions]


def check_per_task(per_task: Mapping[str, TaskOptions], known: Mapping[str, TaskSpec]) -> None:
    """Raise ConfigError for an unknown task, or a value out of range."""
    for name, options in per_task.items():
        if name not in known:
            raise ConfigError(f"data.per_task: unknown task {name!r}; {nearest(str(name), known)}")
        for option, least in LEAST.items():
            value = getattr(options, option)
            if value is not None and value < least:
                raise ConfigError(f"data.per_task.{name}.{option}: {value} must be {least} or more")
        if options.keep_head is not None and not 0 <= options.keep_head <= 1:
            raise ConfigError(f"data.per_task.{name}.keep_head: {options.keep_head} must lie in 0..1")
        if options.prompt is not None:
            _template(name, options.prompt)


def with_options(specs: Mapping[str, TaskSpec], per_task: Mapping[str, TaskOptions]) -> dict[str, TaskSpec]:
    """Return the specifications with the tasks' own options."""
    made = dict(specs)
    for name, options in per_task.items():
        other = {option: value for option, value in options.given().items() if option in OF_THE_TASK}
        also = {"also": tuple(options.also)} if options.also is not None else {}
        made[name] = replace(made[name], **{**other, **also})
    return made


def with_prompt(splits: Splits, name: str, options: TaskOptions) -> Splits:
    """Write each prompt into the task's own template; of a conversation, the last message."""
    if options.prompt is None:
        return splits
    template = _template(name, options.prompt)

    def around(example: Example) -> Example:
        if example.turns:
            *before, (role, text) = example.turns
            asked = conversation([*before, (role, template.filled({"prompt": text}, example.id))], [example.answer])
            return replace(example, prompt=asked.prompt, turns=asked.turns)
        return replace(
            example,
            prompt=template.filled({"prompt": example.prompt}, example.id),
            instruction=template.instruction + example.instruction,
            cue=template.cue + example.cue,
        )

    return replace(splits, train=changed(splits.train, around), test=changed(splits.test, around))


def _template(name: str, text: str) -> Template:
    template = Template(text, f"data.per_task.{name}.prompt")
    if template.names != ["prompt"]:
        raise ConfigError(f"data.per_task.{name}.prompt: must have {{prompt}} once and no other field")
    return template
