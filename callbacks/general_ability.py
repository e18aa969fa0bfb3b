"""General ability before the first task and after each or the last one, beside the base model's own, by lm-eval."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from cl_lightning import distributed
from cl_lightning.errors import ConfigError
from cl_lightning.evaluation.general_presets import read_preset
from cl_lightning.state import to_csv
from cl_lightning.task_callback import Table, TaskCallback

if TYPE_CHECKING:
    from cl_lightning.adapters.base import AdapterStrategy
    from cl_lightning.evaluation.general import Score
    from cl_lightning.sequence import SequenceRun

#: Setting -> task of the preset -> score 0..100.
Scores = dict[str, dict[str, float]]

FILE = "general/ability.csv"
COLUMNS = ["after", "setting", "task", "lm-eval task", "metric", "shots", "items", "score", "base", "difference"]
MEAN = "mean"


class GeneralAbility(TaskCallback):
    """Scores of tasks that the model is not taught. Needs the extra "general" (lm-eval).

    Measured on the base model before anything is added to it, and at the end of tasks with everything in place that
    they learnt. Never changes the training: train mode and random states are restored.

    Args:
        preset: "slice_core" (GP and IP of SLICE), "trace" (TRACE's six tasks), "offline" (MMLU, GSM8K, BBH, BoolQ, PIQA
            from local JSONL files), or a YAML file of the same form, see `cl_lightning.evaluation.general_presets`.
        when: after the last task only ("ends") or after "each".
        limit: items of each lm-eval task (of each member of a group); null: all.
        data_dir: folder of the local files; null: "general" in the data root.
        batch_size: sequences per forward pass on each rank.
        chat: put prompts into the model's chat template; off as in lm-eval.
    """

    def __init__(
        self,
        preset: str = "slice_core",
        when: Literal["ends", "each"] = "ends",
        limit: int | None = None,
        data_dir: str | None = None,
        batch_size: int = 8,
        chat: bool = False,
    ) -> None:
        for name, value in (("limit", limit), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ConfigError(f"observers.general: {name} {value} must be 1 or more")
        self.preset, self.when, self.limit, self.batch_size, self.chat = preset, when, limit, batch_size, chat
        self.data_dir = None if data_dir is None else Path(data_dir).expanduser()
        self.settings = read_preset(preset)
        self.items: dict[str, dict[str, int]] = {}
        self.base: Scores = {}
        self.after: dict[str, Scores] = {}

    def check(self, slots: dict[str, TaskCallback], adapter: AdapterStrategy) -> list[str]:
        if find_spec("lm_eval") is None:
            return ["GeneralAbility needs lm-eval: pip install -c constraints.txt -e '.[general]', or leave it out"]
        return []

    def check_run(self, run: SequenceRun) -> None:
        from cl_lightning.evaluation.general import load

        root = run.data.root
        folder = self.data_dir or (None if root is None else root / "general")
        entries = [entry for tasks in self.settings.values() for entry in tasks.values()]
        self._loaded = load(entries, folder)

    def on_sequence_start(self, run: SequenceRun) -> None:
        if 0 < len(run.matrix) < len(run.order) and not self.base:
            raise ConfigError(
                "observers.general: this run began without it, so the base model's own value is not known; "
                "leave it out, or start over with FRESH=1"
            )

    def on_base(self, run: SequenceRun) -> None:
        scores = self._measure(run)
        self.base = {s: {name: score.value for name, score in tasks.items()} for s, tasks in scores.items()}
        self.items = {s: {name: score.items for name, score in tasks.items()} for s, tasks in scores.items()}
        self._tell(run, "the base model", self.base)

    def on_task_end(self, run: SequenceRun, task: int) -> None:
        if self.when == "ends" and task + 1 < len(run.order):
            return
        scores = self._measure(run)
        name = run.order[task]
        self.after[name] = {s: {n: score.value for n, score in tasks.items()} for s, tasks in scores.items()}
        self._tell(run, f"task {task + 1}/{len(run.order)}", self.after[name])

    def _measure(self, run: SequenceRun) -> dict[str, dict[str, Score]]:
        from cl_lightning.evaluation.general import measure
        from cl_lightning.evaluation.harness import HarnessLM

        if self.limit is not None and self.limit < distributed.world_size():
            raise ConfigError(f"observers.general: limit {self.limit} leaves ranks without an item; raise it")
        module = run.module
        extra = module.adapter.forward_kwargs if module.adapter.per_sample else None
        lm = HarnessLM(module.llm, module.tokenizer, module.answer_logits, self.batch_size, extra)
        found = measure(lm, self._loaded, self.limit, self.chat)
        return {s: {name: found[entry] for name, entry in tasks.items()} for s, tasks in self.settings.items()}

    def _tell(self, run: SequenceRun, moment: str, scores: Scores) -> None:
        """One line, the log, the file."""
        means = {setting: fmean(tasks.values()) for setting, tasks in scores.items()}
        base = {setting: fmean(tasks.values()) for setting, tasks in self.base.items()}
        cells = [f"{s} {mean:.1f} ({mean - base[s]:+.1f})" for s, mean in means.items()]
        run.say(f"  general ability of {moment}, difference from the base: {'  '.join(cells)}{self._limited()}")
        values = {f"general/{s}/{name}": score for s, tasks in scores.items() for name, score in tasks.items()}
        values |= {f"general/{s}/{MEAN}": mean for s, mean in means.items()}
        values |= {f"general/{s}/difference": mean - base[s] for s, mean in means.items()}
        run.log(values)
        moments = {"base": self.base, **self.after}
        run.write(FILE, to_csv(COLUMNS, [row for name, values in moments.items() for row in self._rows(name, values)]))

    def _limited(self) -> str:
        return "" if self.limit is None else f" (first {self.limit} items of each task only)"

    def _rows(self, after: str, scores: Scores) -> list[list[Any]]:
        """A row for each task of each setting, and one for their mean."""
        rows = []
        for setting, tasks in scores.items():
            for name, score in tasks.items():
                entry, base = self.settings[setting][name], self.base[setting][name]
                facts = [entry.task, entry.metric, entry.shots, self.items[setting][name]]
                rows.append([after, setting, name, *facts, score, base, score - base])
            mean, base, items = fmean(tasks.values()), fmean(self.base[setting].values()), self.items[setting]
            rows.append([after, setting, MEAN, None, None, None, sum(items.values()), mean, base, mean - base])
        return rows

    def tables(self) -> list[Table]:
        if not self.after:
            return []
        last = next(reversed(self.after))
        rows = [[*row[1:3], *row[4:]] for row in self._rows(last, self.after[last])]
        title = f"general ability, preset {Path(self.preset).stem}, by lm-eval{self._limited()}"
        columns = ["setting", "task", "metric", "shots", "items", f"after {last}", "base", "difference"]
        found = [Table(title, columns, rows)]
        if len(self.after) > 1:
            moments = [("base", self.base), *((f"after {name}", scores) for name, scores in self.after.items())]
            columns = ["", *(text for setting in self.settings for text in (setting, "difference"))]
            means = [[name, *self._means(scores)] for name, scores in moments]
            found.append(Table("its means, and their differences from the base model's", columns, means))
        return found

    def _means(self, scores: Scores) -> list[float]:
        pairs = [(fmean(tasks.values()), fmean(self.base[s].values())) for s, tasks in scores.items()]
        return [value for mean, base in pairs for value in (mean, mean - base)]

    def _asked(self) -> dict[str, Any]:
        entries = {s: {n: vars(e) for n, e in tasks.items()} for s, tasks in self.settings.items()}
        return {"settings": entries, "limit": self.limit, "chat": self.chat}

    def state(self) -> dict[str, Any]:
        return {"asked": self._asked(), "items": self.items, "base": self.base, "after": self.after}

    def load(self, state: dict[str, Any]) -> None:
        if state["asked"] != self._asked():
            raise ConfigError(
                "observers.general: the base model was measured with another preset, limit or chat setting; take that, "
                "or start over with FRESH=1"
            )
        self.items, self.base, self.after = state["items"], state["base"], state["after"]
