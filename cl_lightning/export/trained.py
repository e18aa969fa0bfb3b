"""Reads what is exported from a run: its base, and the updates by the branches of the selected tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.linear import BRANCH
from cl_lightning.adapters.linear_layers import LINEAR, shape_of
from cl_lightning.common.errors import ConfigError, StateError, nearest
from cl_lightning.data.chat import DAY, fix
from cl_lightning.data.end_tokens import end_tokens
from cl_lightning.data.protocol import PROTOCOLS
from cl_lightning.export.branches import summed, update_of
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.moved_base import base_may_move
from cl_lightning.sequence.folder import CONFIG, START, adapter_file, read_record
from cl_lightning.sequence.load import based, same_base
from cl_lightning.sequence.stored import build, read_config
from cl_lightning.sequence.stored_tensors import read_tensors


@dataclass(frozen=True)
class Request:
    """The options of an export.

    Attributes:
        run: the run folder.
        task: export only the branch of this task; for a run with one model per task, the model of this task.
        after: export the model after this many tasks, or after the task of this name. If neither is set: after all
            finished tasks.
        rank: recompress each layer's update to this rank.
        dtype: dtype of the merged weights; None: the run's.
        base: where the base model is now; None: where it was.
        dequantize: allow a 4-bit base to be written as dequantised weights.
        allow, trust_remote_code: as in `sequence.load.load_run`.
    """

    run: Path
    task: str | None = None
    after: str | None = None
    rank: int | None = None
    dtype: str | None = None
    base: str | None = None
    dequantize: bool = False
    allow: Sequence[str] = ()
    trust_remote_code: bool = False


class Trained:
    """A run's model, read from its folder.

    Attributes:
        request: the options.
        record, config: the run's record and configuration.
        module: the run's model, not loaded.
        tasks: tasks whose branches are included, in order.
        under: file of the LoRA under all tasks (`model.adapter.start_from`), if included: one or none.

    Raises:
        StateError: the folder is not a run, is damaged, or needs classes that are not allowed.
        ConfigError: the task is not finished, or the options do not select one model.
    """

    def __init__(self, request: Request) -> None:
        self.request, self.record = request, read_record(request.run)
        config = read_config(request.run, self.record)
        self.config = {**config, "model": based(config["model"], request.base)}
        self.module = build(
            ContinualLM,
            self.config["model"],
            "model",
            request.run / CONFIG,
            request.allow,
            request.trust_remote_code,
        )
        self._alone = PROTOCOLS[self.record["protocol"]].alone
        self.tasks = self._tasks()
        whole = request.task is None or self._alone
        self.under = [START] if START in self.record["files"] and whole else []

    def _tasks(self) -> list[str]:
        done = self.record["order"][: self.record["done"]]
        if self.request.task is not None and self.request.after is not None:
            raise ConfigError("--task and --after: one task's branch alone, or all up to a task; give one of them")
        if self.request.task is not None:
            if self.module.adapter.continues:
                raise ConfigError(
                    f"--task: {self.request.run} trained one LoRA through all tasks (per_task=continue), no task has "
                    "its own; --after gives it as it was after a task"
                )
            return [_known("--task", self.request.task, done)]
        after = self.request.after
        if self._alone and after != "0":
            raise ConfigError(
                f"{self.request.run}: holds one model per task (data.protocol=independent); name one by --task"
            )
        if after is None:
            return done
        if after not in done and after.isdecimal():
            if int(after) > len(done):
                raise ConfigError(f"--after: {after} is not in 0..{len(done)}, the number of finished tasks")
            return done[: int(after)]
        return done[: done.index(_known("--after", after, done)) + 1]

    @property
    def name(self) -> str:
        """Description of the selected model."""
        if self.request.task is not None:
            return f"the {'model' if self._alone else 'branch'} of {self.tasks[0]} alone"
        if not self.tasks:
            return "the model before the first task" if self.under else "the base model"
        return f"the model after {self.tasks[-1]} (task {len(self.tasks)} of {len(self.record['order'])})"

    def base(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load the base, and the tokenizer with the chat template and end tokens of training.

        Raises:
            StateError: the run was trained on another base.
            ConfigError: the base is not available.
        """
        backbone = self.module.backbone
        with base_may_move():
            tokenizer = backbone.load_tokenizer()
            llm = backbone.load(len(tokenizer))
        same_base(self.module, backbone.fingerprint(llm), self.record["base"], self.request.run)
        template = self.record["template"]
        if tokenizer.chat_template and (template.get("date") or template.get("template_args")):
            fix(tokenizer, template.get("date") or DAY, template.get("template_args") or {})
        ends = end_tokens(llm, tokenizer)
        llm.generation_config.eos_token_id = ends[0] if len(ends) == 1 else ends
        llm.generation_config.pad_token_id = tokenizer.pad_token_id
        return llm, tokenizer

    def updates(self, llm: PreTrainedModel) -> dict[str, LowRank]:
        """Compute the update of each layer by its name in the base; layers without one are left out.

        Raises:
            ConfigError: the strategy does more than add up its branches.
            StateError: a branch is damaged or does not fit the base.
        """
        adapter = self.module.adapter
        if self.tasks and not isinstance(adapter, IncLoRA):
            why = "weighs its branches by the prompt" if adapter.per_sample else "may do more than add LoRA branches up"
            raise ConfigError(
                f"{self.request.run}: {type(adapter).__name__} {why}, which neither one LoRA nor merged weights can "
                "do; use --format=native"
            )
        tasks = self.tasks[-1:] if adapter.continues else self.tasks
        kept = [(file, 1.0) for file in self.under] + [(adapter_file(task), adapter.scaling) for task in tasks]
        shapes = {n: shape_of(m) for n, m in llm.named_modules() if isinstance(m, LINEAR)}
        found: dict[str, list[LowRank]] = {}
        for file, scaling in kept:
            for name, branch in self._branches(file).items():
                try:
                    update = update_of(branch, scaling)
                except (KeyError, RuntimeError):
                    raise self._damaged(file, f"its branch at {name}") from None
                if update is not None and update.shape != shapes.get(name):
                    raise self._damaged(file, f"its branch at {name} does not fit the base model")
                if update is not None:
                    found.setdefault(name, []).append(update)
        return {name: summed(updates) for name, updates in found.items()}

    def _branches(self, file: str) -> dict[str, dict[str, Tensor]]:
        """Read the tensors of a stored branch, by layer."""
        layers: dict[str, dict[str, Tensor]] = {}
        for key, tensor in read_tensors(self.request.run, self.record, file).items():
            layer, _, part = key.rpartition(".")
            if part in self.module.adapter.stored_extras:
                continue
            if part not in BRANCH:
                raise self._damaged(file, f"{key} is no part of a branch")
            layers.setdefault(layer, {})[part] = tensor
        return layers

    def _damaged(self, file: str, what: str) -> StateError:
        return StateError(f"{self.request.run / file}: damaged ({what}); restore it")


def _known(option: str, task: str, done: Sequence[str]) -> str:
    if task not in done:
        raise ConfigError(
            f"{option}: no finished task is called {task!r}; {nearest(task, done) if done else 'none is finished'}"
        )
    return task
