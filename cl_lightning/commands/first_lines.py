"""Writes the first lines of a run: experiment, data, training length and precision."""

from collections.abc import Iterator, Mapping

from cl_lightning.data.mix import NEW_ONLY
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.generation_settings import describe
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence.callback import TaskCallback, mix_of

#: Columns before the facts.
INDENT = 12


def first_lines(
    experiment: str, module: ContinualLM, data: TaskSequence, boundary: Mapping[str, TaskCallback], source: str
) -> Iterator[str]:
    """Describe what is trained, on which data (`source`), for how long, and in which precision, a line for each."""
    yield f"{experiment}: DATA = {source}"
    facts = {
        "tasks": _tasks(data),
        "training": _training(module, data, boundary),
        "prompts": _prompts(data),
        "base": base(module),
    }
    if date := data.template["date"]:
        facts["template"] = f"the chat template writes the date {date} (data.date)"
    if module.adapter.remarks:
        facts["adapter"] = "; ".join(module.adapter.remarks)
    for name, fact in facts.items():
        yield f"  {name:<{INDENT - 2}}{fact}"


def _tasks(data: TaskSequence) -> str:
    examples, prompts = _span([len(t.train) for t in data.tasks]), _span([len(t.test) for t in data.evaluated])
    said = data.thinning.note(data.protocol)
    return (
        f"{data.protocol.opening.format(len(data.columns))} {examples} training examples; "
        f"{prompts} scored prompts per task{f'; {said}' if said else ''}"
    )


def _training(module: ContinualLM, data: TaskSequence, boundary: Mapping[str, TaskCallback]) -> str:
    mix = mix_of(boundary)
    # The first task has nothing to replay; later tasks still see every new example once per epoch.
    steps = [task.steps(data.batch_size, mix if i else NEW_ONLY) for i, task in enumerate(data.tasks)]
    replayed = mix.replayed(data.batch_size)
    said = f" ({replayed} replayed)" if replayed else f", {mix.turn} new and {mix.turn} replayed" if mix.turn else ""
    batches = f"batches of {data.batch_size}{said}"
    return f"{_span(steps)} steps per task in {batches}, lr {module.lr:g}, seed {data.seed}"


def _prompts(data: TaskSequence) -> str:
    cut = sum(e.cut > 0 for t in data.tasks for e in t.train)
    dropped = sum(t.dropped for t in data.tasks)
    return f"up to {data.max_prompt_tokens} tokens; {cut} cut in the middle, {dropped} long answers dropped"


def base(module: ContinualLM) -> str:
    """Describe the frozen model, its precision and how it answers."""
    alone = "" if module.most_prompts(2) > 1 else "; answers one prompt at a time, since batches give other answers"
    return f"{module.backbone.name} in {module.backbone.dtype}{_held(module)}{decoded(module)}{alone}"


def _held(module: ContinualLM) -> str:
    if module.backbone.load_in_4bit:
        return " 4-bit"
    held = str(module.llm.dtype).removeprefix("torch.")
    return "" if held == module.backbone.dtype else f" values held in {held} (this CPU has no bf16 units)"


def decoded(module: ContinualLM) -> str:
    """Describe the decoding if the model has generation settings of its own; else ""."""
    own, kept = module.backbone.own_generation, module.backbone.generation == "model"
    return f"; greedy, {'with' if kept else 'without'} the model's own {describe(own)}" if own else ""


def _span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"
