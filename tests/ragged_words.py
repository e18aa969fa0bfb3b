"""Random words with answers of many lengths, and a run of them in this process: real parts, no command line."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.commands.execution import facts_of
from cl_lightning.data.base import Benchmark, Example, Splits, TaskSpec
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.random_llama import random_tokenizer
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.folder import RunFolder
from cl_lightning.sequence.run import SequenceRun
from cl_lightning.sequence.settings import SequenceSettings

TASKS = ("one", "two", "three", "four", "five")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class RaggedWords(Benchmark):
    """Five tasks; every prompt is unique, and the k-th task's answers have k to 3 k letters."""

    def tasks(self, root: Path | None) -> Mapping[str, TaskSpec]:
        return {name: TaskSpec(name, "accuracy", 4) for name in TASKS}

    def load(self, root: Path | None, name: str) -> Splits:
        rng, longest = random.Random(name), 1 + TASKS.index(name)

        def example(split: str, index: int) -> Example:
            word = "".join(rng.choices(LETTERS, k=rng.randint(3, 8)))
            answer = "".join(rng.choices(LETTERS, k=rng.randint(longest, 3 * longest)))
            return Example(f"{name}/{split}/{index}", f"{word} {name}{split[:2]}{index}", answer)

        return Splits(*(tuple(example(s, i) for i in range(count)) for s, count in (("train", 12), ("test", 8))))

    def describe(self, root: Path | None) -> str:
        return "ragged words"


def words(order: Sequence[str] = TASKS, **options: Any) -> TaskSequence:
    """The tasks, prepared for the random model: 9 training, 3 validation, 2 test examples each."""
    settings = {"validation_samples": 3, "test_samples": 2, "batch_size": 4, "seed": 42, "system_prompt": ""}
    data = TaskSequence(RaggedWords(), order=list(order), **{**settings, **options})
    data.prepare(random_tokenizer(), encoder_decoder=False)
    return data


def small_run(
    folder: Path,
    data: TaskSequence,
    boundary: dict[str, TaskCallback] | None = None,
    observers: dict[str, TaskCallback] | None = None,
    adapter: AdapterStrategy | None = None,
    accumulate: int = 1,
    dtype: str = "float64",
    **model: Any,
) -> SequenceRun:
    """A run of `data` on the random Llama that goes on where `folder` stands; `run()` it, or use its parts."""
    module = ContinualLM(Backbone("random-llama", dtype=dtype), adapter or SeqLoRA(rank=2, alpha=4), **model)
    module.load(data.tokenizer)

    def trainer(task: int, callbacks: list[Callback], loggers: list[Logger]) -> pl.Trainer:
        return pl.Trainer(
            max_epochs=data.epochs_per_task[task], accelerator="cpu", devices=1, callbacks=callbacks, logger=loggers,
            accumulate_grad_batches=accumulate, gradient_clip_val=1.0, limit_val_batches=0, num_sanity_val_steps=0,
            use_distributed_sampler=False, enable_checkpointing=False, enable_model_summary=False,
            enable_progress_bar=False, log_every_n_steps=1,
        )  # fmt: skip

    settings = SequenceSettings(zero_shot=False, wandb="off")
    facts = {**facts_of("small", module, data), "identity": "small"}
    state = RunFolder(folder)
    run = SequenceRun(module, data, state, settings, boundary or {}, observers or {}, trainer, facts)
    run.check()
    state.open("small", False, run.record.content())
    return run


def finished_run(folder: Path, data: TaskSequence, *args: Any, **options: Any) -> SequenceRun:
    """`small_run`, run to its end."""
    run = small_run(folder, data, *args, **options)
    try:
        run.run()
    finally:
        run.folder.close()
    return run
