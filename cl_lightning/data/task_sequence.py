"""The data module: samples, encodes and checks the ordered tasks, and serves one task at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from cl_lightning.common.described import Described
from cl_lightning.common.errors import ConfigError, DataError
from cl_lightning.common.expected import expect, expect_number
from cl_lightning.common.memory import seldom_collected
from cl_lightning.common.numbers import Integer, Seed
from cl_lightning.common.seeding import generator
from cl_lightning.data.base import Benchmark, check_order, data_root, digest
from cl_lightning.data.benchmarks.trace import TRACE
from cl_lightning.data.budget import Budget, with_budget
from cl_lightning.data.chat import DAY, check_variables, parsed_day
from cl_lightning.data.choosing import Wanted, choose
from cl_lightning.data.cleaning import Removed, clean, removal_summary
from cl_lightning.data.collate import Collated, training_batch
from cl_lightning.data.labels import label_set
from cl_lightning.data.longest import LongestEncoder
from cl_lightning.data.mix import NEW_ONLY, Mix
from cl_lightning.data.per_task import PerTask, TaskOptions, check_per_task, with_options, with_prompt
from cl_lightning.data.prompt import Encoded, PromptEncoder
from cl_lightning.data.protocol import PROTOCOLS, ProtocolName
from cl_lightning.data.sampler import StepSampler, equal_parts
from cl_lightning.data.task_data import ALL_TASKS, TaskData, joined, official_task
from cl_lightning.data.thinning import Thinning
from cl_lightning.data.writable import SAMPLE, Lost, lost_characters


class TrainLoader(DataLoader):
    """Declares to Lightning that a task can go on inside an epoch. Its place is known before, see `StepSampler`."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See the class."""


class TaskSequence(Described, LightningDataModule):
    """Ordered tasks of one benchmark.

    Args:
        benchmark: family of tasks.
        root: folder of real data; null: the variable CL_DATA, else the benchmark's built-in sample.
        order: task names, in training order; null: the benchmark's own order.
        random_order: train the tasks in an order drawn by the seed instead.
        skip_missing: leave out tasks whose data is missing instead of raising; `source` names them.
        dedup: remove training examples that repeat an earlier prompt of the task; `source` counts them.
        drop_leaks: remove training examples whose prompt is in the task's test split; `source` counts them.
        train_samples: training examples per task, drawn by (seed, task); null: all.
        validation_samples: validation examples per task, taken from train, never from test; never trained on.
        test_samples: scored prompts per task, drawn by (seed, task); null: all.
        batch_size: examples per optimiser step, over all ranks and micro-batches.
        epochs: passes per task: one number, one per task in order, or "published" (the benchmark's own).
        eval_batch_size: prompts per generation batch on each rank.
        max_prompt_tokens: longer prompts are truncated in the middle.
        max_answer_tokens: longer training answers raise an error, or are removed with long_answers=drop.
        long_answers: see max_answer_tokens. References of the test split are never truncated or removed.
        max_new_tokens: generation budget in tokens: a number for all tasks, "official" for the benchmark's published
            one, or null for each task's own.
        system_prompt: chat system message; null leaves it to the model's template; "": none, or an empty one if the
            template would otherwise insert its own.
        date: the date that the model's chat template writes as today's, if it writes one.
        template_args: further variables of the chat template, e.g. {enable_thinking: false}; a `date_string` overrides
            `date`.
        score_by: "generation": score generated answers; "likelihood": for tasks whose training answers are a closed
            label set, score the most likely label (tables mark it); other tasks still generate; "both": score generated
            answers, and beside them, as the further metric "constrained", the most likely label.
        score_every: score old tasks (those before the one just trained) after every so many tasks, and after the last.
        score_samples_old: scored prompts of an old task, always the same, drawn by (seed, task); null: all. After the
            last task, all prompts of all tasks are scored.
        metrics: ours, or those of the benchmark's official evaluator (`metrics.parity` lists the differences).
        per_task: options of single tasks, by name; see `cl_lightning.data.per_task.TaskOptions`.
        seed: linked to seed_everything.
        protocol: "sequential": task after task, with all seen tasks scored after each. References to compare with:
            "joint": all tasks' examples at once, as if one task (an upper bound); "independent": each task alone from
            the base model, scored on itself only.
    """

    def __init__(
        self,
        benchmark: Benchmark = TRACE(),  # noqa: B008
        root: str | None = None,
        order: list[str] | None = None,
        random_order: bool = False,
        skip_missing: bool = False,
        dedup: bool = False,
        drop_leaks: bool = False,
        train_samples: Integer | None = None,
        validation_samples: Integer = 16,
        test_samples: Integer | None = None,
        batch_size: Integer = 8,
        epochs: Integer | list[Integer] | Literal["published"] = 1,
        eval_batch_size: Integer = 32,
        max_prompt_tokens: Integer = 256,
        max_answer_tokens: Integer = 256,
        long_answers: Literal["refuse", "drop"] = "refuse",
        max_new_tokens: Budget = None,
        system_prompt: str | None = None,
        date: str = DAY,
        template_args: dict[str, Any] | None = None,
        score_by: Literal["generation", "likelihood", "both"] = "generation",
        score_every: Integer = 1,
        score_samples_old: Integer | None = None,
        metrics: Literal["ours", "official"] = "ours",
        per_task: PerTask | None = None,
        seed: Seed = 0,
        protocol: ProtocolName = "sequential",
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("train_samples", train_samples, 1),
            ("validation_samples", validation_samples, 0),
            ("test_samples", test_samples, 1),
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("max_prompt_tokens", max_prompt_tokens, 1),
            ("max_answer_tokens", max_answer_tokens, 1),
            ("score_every", score_every, 1),
            ("score_samples_old", score_samples_old, 1),
        ):
            if isinstance(value, bool):
                raise ConfigError(f"data.{name}: {value} must be a number")
            if value is not None and value < least:
                raise ConfigError(f"data.{name}: {value} must be {least} or more")
        expect("data.benchmark", benchmark, Benchmark, "a benchmark, such as DatasetTasks([..])")
        self.protocol = PROTOCOLS[protocol]
        self.benchmark, self.root = benchmark, data_root(root)
        if self.root is not None and not self.root.is_dir():
            raise DataError(f"data.root: {self.root} is not a folder")
        self.specs = with_budget(benchmark.tasks(self.root), benchmark, max_new_tokens)
        if metrics == "official":
            if benchmark.evaluator is None:
                raise ConfigError(
                    f"data.metrics: {type(benchmark).__name__} has no official evaluator; use data.metrics=ours"
                )
            self.specs = {name: official_task(spec, benchmark) for name, spec in self.specs.items()}
        self.per_task = per_task or {}
        check_per_task(self.per_task, self.specs)
        self.specs = with_options(self.specs, self.per_task)
        #: Names of the tasks that are scored (columns) and of those that are trained (order).
        self.columns = list(order) if order is not None else benchmark.default_order(self.root)
        self.order = [ALL_TASKS] if self.protocol.together else self.columns
        self.train_samples, self.validation_samples, self.test_samples = train_samples, validation_samples, test_samples
        self.batch_size, self.eval_batch_size, self.epochs = batch_size, eval_batch_size, epochs
        self.max_prompt_tokens, self.max_answer_tokens = max_prompt_tokens, max_answer_tokens
        self.long_answers, self.system_prompt, self.seed = long_answers, system_prompt, seed
        self.date, self.template_args = date, template_args or {}
        self.dedup, self.drop_leaks, self.score_by, self.score_every = dedup, drop_leaks, score_by, score_every
        self.score_samples_old, self.thinning = score_samples_old, Thinning(score_every, score_samples_old)
        #: Numbers of training examples removed from each task, by cleaning or by the benchmark itself.
        self.removed: dict[str, Removed] = {}
        #: Tasks of the order whose data is missing.
        self.skipped: list[str] = []
        #: Tasks that are trained and tasks that are scored; they differ only with protocol=joint.
        self.tasks: list[TaskData] = []
        self.evaluated: list[TaskData] = []
        #: Number of the task that is served.
        self.current = 0
        self._replay: tuple[Encoded, ...] = ()
        self._mix = NEW_ONLY
        self._start = (0, 0)
        self._check()
        self._leave_out_missing(skip_missing)
        if random_order:
            self._shuffle()

    def _check(self) -> None:
        parsed_day(self.date)
        check_variables(self.template_args)
        check_order(self.columns, self.specs)
        self.epochs_per_task = self._epochs()

    def _epochs(self) -> list[int]:
        if isinstance(self.epochs, int):
            epochs = [self.epochs] * len(self.columns)
        elif self.epochs == "published":
            published = self.benchmark.published_epochs()
            missing = [n for n in self.columns if n not in published]
            if missing:
                raise ConfigError(f"data.epochs: no number is published for {', '.join(missing)}; give numbers")
            epochs = [published[n] for n in self.columns]
        else:
            epochs = list(self.epochs)
        if len(epochs) != len(self.columns) or min(epochs) < 1:
            raise ConfigError(f"data.epochs: {epochs} must be one number of 1 or more, or one for each task in order")
        if self.protocol.together and len(set(epochs)) > 1:
            raise ConfigError(
                f"data.epochs: {epochs} differ, but data.protocol=joint trains all tasks at once; give one number"
            )
        return epochs[: len(self.order)]

    def _shuffle(self) -> None:
        if self.protocol.together:
            raise ConfigError(
                "data.random_order: data.protocol=joint trains all tasks at once, in no order; leave it out"
            )
        drawn = torch.randperm(len(self.columns), generator=generator(self.seed, "order")).tolist()
        self.order = self.columns = [self.columns[i] for i in drawn]
        self.epochs_per_task = [self.epochs_per_task[i] for i in drawn]

    def _leave_out_missing(self, skip: bool) -> None:
        places = {name: self.benchmark.places(self.root, name) for name in self.columns}
        missing = [name for name, paths in places.items() if paths and not any(path.exists() for path in paths)]
        if missing and (not skip or len(missing) == len(self.columns)):
            remedy = "" if skip else ", or leave them out with data.skip_missing=true"
            raise ConfigError(
                f"data.order: no data for {', '.join(missing)}: looked for "
                f"{' or '.join(map(str, places[missing[0]]))}; put them there{remedy}"
            )
        self.skipped = missing
        there = [i for i, name in enumerate(self.columns) if name not in missing]
        self.columns = [self.columns[i] for i in there]
        if not self.protocol.together:
            self.order, self.epochs_per_task = self.columns, [self.epochs_per_task[i] for i in there]

    # ---- preparing ---------------------------------------------------------------------------------------

    def prepare(self, tokenizer: PreTrainedTokenizerBase, encoder_decoder: bool) -> None:
        """Read, sample, encode and check all tasks, so that every fault of the data shows before training.

        Raises:
            DataError, ConfigError: one line that names the file or record.
        """
        self.tokenizer = tokenizer
        self._encode(
            PromptEncoder(tokenizer, self.max_prompt_tokens, self.system_prompt, self.date, self.template_args),
            encoder_decoder,
        )

    def prepare_longest(self, encoder_decoder: bool) -> None:
        """Read and sample all tasks without a tokenizer, as if all texts were as long as the options allow.

        Raises:
            DataError, ConfigError: one line that names the file or record.
        """
        answers = {name: self._wanted(self.per_task.get(name, TaskOptions())).max_answer_tokens for name in self.specs}
        self._encode(LongestEncoder(self.max_prompt_tokens, answers), encoder_decoder)

    def _encode(self, encoder: PromptEncoder | LongestEncoder, encoder_decoder: bool) -> None:
        self.encoder, self.encoder_decoder = encoder, encoder_decoder
        epochs = self.epochs_per_task * (len(self.columns) if self.protocol.together else 1)
        with seldom_collected():
            self.evaluated = [self._task(name, e) for name, e in zip(self.columns, epochs, strict=True)]
        if self.score_by != "generation" and not any(t.labels for t in self.evaluated):
            raise ConfigError(
                f"data.score_by: no closed label set among {', '.join(self.columns)}: their training answers are free "
                "text; use generation"
            )
        self.tasks = [joined(self.evaluated)] if self.protocol.together else self.evaluated

    def scored_after(self, task: int) -> range:
        """Return the columns that are scored after training `task`."""
        return self.thinning.columns(self.protocol, task, len(self.columns))

    def scored(self, task: int | None, column: int) -> TaskData:
        """Return a column's task with the prompts that are scored after training `task`; None: before the first."""
        scored = self.evaluated[column]
        count = None if task is None else self.thinning.prompts(self.protocol, task, column, len(self.columns))
        if count is None:
            return scored
        drawn = torch.randperm(len(scored.test), generator=generator(self.seed, "old", scored.spec.name))[:count]
        return replace(scored, test=tuple(scored.test[i] for i in sorted(drawn.tolist())))

    def _task(self, name: str, epochs: int) -> TaskData:
        spec, options = self.specs[name], self.per_task.get(name, TaskOptions())
        splits = with_prompt(self.benchmark.load(self.root, name), name, options)
        splits, self.removed[name] = clean(splits, self.dedup, self.drop_leaks)
        if self.encoder_decoder and splits.train[0].every_turn:
            raise ConfigError(f"{name}: loss_on=every needs a decoder; an encoder reads earlier turns, so use last")
        chosen = choose(
            name, splits, self._wanted(options), self.seed, lambda some: self.encoder.encode_all(some, spec)
        )
        found = label_set(splits.train) if self.score_by != "generation" else []
        labels = {label: self.encoder.answer(label) for label in found}
        whole = digest(chain(splits.train, splits.test))
        train, validation, test, dropped = vars(chosen).values()
        return TaskData(spec, train, validation, test, epochs, dropped, whole, labels, self.score_by == "both")

    def _wanted(self, options: TaskOptions) -> Wanted:
        """Return how many examples of a task are used: its own numbers, else those of all tasks."""
        names = ("train_samples", "validation_samples", "test_samples", "max_answer_tokens")
        numbers = {name: getattr(self, name) for name in names} | options.given()
        return Wanted(*(numbers[name] for name in names), drop_long=self.long_answers == "drop")

    @property
    def source(self) -> str:
        """Description of the data in one line; once prepared, also what was left out of it."""
        left_out = f", without {', '.join(self.skipped)} (no data)" if self.skipped else ""
        removed = ""
        if self.dedup or self.drop_leaks:
            removed = f", cleaned ({removal_summary(self.removed)})"
        elif any(r != Removed() for r in self.removed.values()):  # by the benchmark itself
            removed = f", {removal_summary(self.removed)}"
        return f"{self.benchmark.describe(self.root)}{left_out}{removed}"

    @property
    def lost(self) -> dict[str, Lost]:
        """Tasks with characters that the tokenizer cannot write; once prepared."""
        found = {}
        for task in self.evaluated:
            examples = [e.example for e in (*task.train[:SAMPLE], *task.test[:SAMPLE])]
            found[task.spec.name] = lost_characters(self.tokenizer, (f"{e.prompt}{e.answer}" for e in examples))
        return {name: lost for name, lost in found.items() if lost is not None}

    @property
    def template(self) -> dict[str, Any]:
        """Arguments of the chat template; once prepared, `date` is None if the template writes none."""
        dated = self.encoder.chat is not None and self.encoder.chat.dated
        date = self.date if dated else None
        return {"system_prompt": self.system_prompt, "date": date, "template_args": self.template_args}

    def fingerprint(self, tasks: Sequence[TaskData] | None = None) -> str:
        """Hash the content of the examples used (text, not tokens) to 16 hex digits."""
        chosen = self.evaluated if tasks is None else tasks
        return digest(e.example for task in chosen for split in (task.train, task.validation, task.test) for e in split)

    def draw(self, task: int, count: int, purpose: str) -> list[Encoded]:
        """Draw at most `count` training examples of a task, determined by (seed, purpose, task)."""
        train = self.tasks[task].train
        order = torch.randperm(len(train), generator=generator(self.seed, purpose, self.order[task])).tolist()
        return [train[i] for i in order[:count]]

    # ---- serving -----------------------------------------------------------------------------------------

    def activate(self, task: int) -> None:
        """Serve this task from now on, without replay until `set_replay`. Raises ConfigError for no task's number."""
        expect_number("TaskSequence.activate", task, len(self.order))
        self.current = task
        self._replay, self._mix = (), NEW_ONLY
        self._start = (0, 0)

    def start_at(self, epoch: int, batches: int) -> None:
        """Begin the training of the current task after so many of a rank's micro-batches of an epoch."""
        self._start = (epoch, batches)

    def set_replay(self, examples: Sequence[Encoded], mix: Mix) -> None:
        """Mix these examples of earlier tasks into the training batches of the current task."""
        self._replay, self._mix = tuple(examples), mix

    @property
    def replay(self) -> tuple[Encoded, ...]:
        """The examples of `set_replay`."""
        return self._replay

    def sampler(self, rank: int, world_size: int, accumulate: int) -> StepSampler:
        """Build the sampler of the current task for one rank."""
        examples = [*self.tasks[self.current].train, *self._replay]
        return StepSampler(
            [e.length for e in examples],
            [e.labelled for e in examples],
            len(self._replay),
            self.batch_size,
            self._mix,
            (self.seed, "train", self.order[self.current]),
            rank,
            world_size,
            accumulate,
            self._start,
        )

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        sampler = self.sampler(trainer.global_rank, trainer.world_size, trainer.accumulate_grad_batches)
        data = Collated([*self.tasks[self.current].train, *self._replay], self._pad, self.encoder_decoder)
        return TrainLoader(data, batch_size=None, sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        """Serve this rank's batches of the validation examples, longest first."""
        trainer, examples = self.trainer, sorted(self.tasks[self.current].validation, key=lambda e: -e.length)
        parts = equal_parts(examples, self.batch_size, trainer.global_rank, trainer.world_size)
        return DataLoader([training_batch(p, self._pad, self.encoder_decoder) for p in parts], batch_size=None)

    def boundary_loader(
        self, examples: Sequence[Encoded], batch_size: int, rank: int, world_size: int, loss_on: str = "answer"
    ) -> Iterator[dict[str, Any]]:
        """Yield one rank's batches of `examples`, longest first; "index" holds the positions of a batch's examples.

        Whole batches are dealt to ranks, so a batch has the same shapes, and the same rounding, for any number of
        ranks: singular directions with a small gap amplify differences of the last bit.
        """
        order = sorted(range(len(examples)), key=lambda i: (-examples[i].length, i))
        for start in range(rank * batch_size, len(order), world_size * batch_size):
            index = order[start : start + batch_size]
            batch = training_batch([examples[i] for i in index], self._pad, self.encoder_decoder, loss_on)
            yield {**batch, "index": index}

    @property
    def _pad(self) -> int:
        return self.tokenizer.pad_token_id
