"""Writes the first line of a run: experiment, data, training length and precision."""

from callbacks.replay_buffer import ReplayBuffer
from cl_lightning.commands.parser import ContinualCLI
from cl_lightning.data.sampler import memory_per_step
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.generation_settings import describe
from cl_lightning.model.module import ContinualLM


def first_line(experiment: str, cli: ContinualCLI, data: TaskSequence, source: str) -> str:
    """Describe in one line what is trained, on which data (`source`), for how long, and in which precision."""
    tasks = data.tasks
    memory = cli.slots("boundary").get("memory")
    replayed = memory_per_step(data.batch_size, memory.train_ratio) if isinstance(memory, ReplayBuffer) else 0
    # The first task has nothing to replay; later tasks still see every new example once per epoch.
    steps = [t.epochs * -(-len(t.train) // (data.batch_size - replayed * (i > 0))) for i, t in enumerate(tasks)]
    cut = sum(e.cut > 0 for t in tasks for e in t.train)
    date = data.template["date"]
    return (
        f"{experiment}: DATA = {source}; {data.protocol.opening.format(len(data.columns))} "
        f"{_span([len(t.train) for t in tasks])} training "
        f"examples in batches of {data.batch_size}{f' ({replayed} replayed)' if replayed else ''} = "
        f"{_span(steps)} steps, "
        f"prompts up to {data.max_prompt_tokens} tokens ({cut} cut in the middle, "
        f"{sum(t.dropped for t in tasks)} long answers dropped), "
        f"{_span([len(t.test) for t in data.evaluated])} scored prompts per task; lr {cli.model.lr:g}; "
        f"base {cli.model.backbone.name} in {cli.model.backbone.dtype}"
        f"{_held(cli.model)}, seed {data.seed}{decoded(cli.model)}"
        f"{f'; the chat template writes the date {date} (data.date)' if date else ''}"
    )


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
