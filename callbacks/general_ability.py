"""Measures general ability by lm-eval: of the base model, and after each task or the last one."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cl_lightning.common import distributed
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.files import to_csv, to_jsonl
from cl_lightning.common.numbers import Integer
from cl_lightning.common.paths import in_home
from cl_lightning.evaluation.general.presets import MEAN, read_preset
from cl_lightning.evaluation.general.scores import Figure, Score, average, figure, item_rows, score_from
from cl_lightning.metrics.bootstrap import format_interval
from cl_lightning.sequence.callback import Table, TaskCallback

if TYPE_CHECKING:
    from cl_lightning.adapters.base import AdapterStrategy
    from cl_lightning.sequence.context import RunContext

#: Setting -> task of the preset -> score.
Scores = dict[str, dict[str, Score]]
#: Setting -> task of the preset, or the mean -> figure.
Figures = dict[str, dict[str, Figure]]

FILE = "general/ability.csv"
#: Name of its stage in displays and costs.
STAGE = "general"
COLUMNS = ["after", "setting", "task", "lm-eval task", "metric", "shots", "items", "score", "low", "high"]
COLUMNS += ["base", "difference", "difference_low", "difference_high"]
BASE = "base"


class GeneralAbility(TaskCallback):
    """Scores tasks that the model is not trained on. Needs the extra "general" (lm-eval).

    Measures the base model before anything is added to it, and the model with all branches at the end of tasks. Does
    not change the training: train mode and random states are restored. Scores and their differences
    from the base model have 95 % bootstrap intervals over the items, see `cl_lightning.evaluation.general.scores`; each
    item's score is in `general/samples_<when>.jsonl`.

    A setting's mean difference from the base is TRACE's Delta R^G (arXiv 2310.06762). Its Delta R^I (instruction
    following) and Delta R^S (safety) count the answers that GPT-4 prefers to the base model's, on Self-Instruct with
    LIMA and on CoNa. Without that judge, the preset "instructions" measures the former by ROUGE-L where there are
    references. The latter is not measured: CoNa has no references, and safety needs a judge.

    Args:
        preset: "slice_core" (GP and IP of SLICE), "trace" (TRACE's six tasks), "offline" (MMLU, GSM8K, BBH, BoolQ, PIQA
            from local JSONL files), "instructions" (one's own, from instructions.jsonl), or a YAML file of the same
            form, see `cl_lightning.evaluation.general.presets`.
        when: after the last task only ("ends") or after "each" task.
        limit: items of each lm-eval task (of each member of a group); null: all.
        data_dir: folder of the local files; null: "general" in the data root.
        batch_size: sequences per forward pass on each rank.
        chat: apply the model's chat template to prompts; off as in lm-eval.
    """

    def __init__(
        self,
        preset: str = "slice_core",
        when: Literal["ends", "each"] = "ends",
        limit: Integer | None = None,
        data_dir: str | None = None,
        batch_size: Integer = 8,
        chat: bool = False,
    ) -> None:
        for name, value in (("limit", limit), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ConfigError(f"observers.general: {name} {value} must be 1 or more")
        self.preset, self.when, self.limit, self.batch_size, self.chat = preset, when, limit, batch_size, chat
        self.data_dir = None if data_dir is None else in_home(data_dir, "observers.general.data_dir")
        self.settings = read_preset(preset)
        self.base: Scores = {}
        #: "base", or the name of the task after which it was measured -> figures.
        self.moments: dict[str, Figures] = {}

    def check(self, slots: dict[str, TaskCallback], adapter: AdapterStrategy) -> list[str]:
        if find_spec("lm_eval") is None:
            return ["GeneralAbility needs lm-eval: pip install -c constraints.txt -e '.[general]', or leave it out"]
        return []

    def check_run(self, run: RunContext) -> None:
        from cl_lightning.evaluation.general.measure import load

        if BASE in run.order:
            raise ConfigError(
                f"observers.general: a task cannot be named {BASE!r}, the base model's name in the tables; rename it"
            )
        root = run.data.root
        folder = self.data_dir or (None if root is None else root / "general")
        entries = [entry for tasks in self.settings.values() for entry in tasks.values()]
        self._loaded = load(entries, folder)

    def on_sequence_start(self, run: RunContext) -> None:
        if 0 < len(run.record.matrix) < len(run.order) and not self.base:
            raise ConfigError(
                "observers.general: this run began without it, so the base model was not measured; "
                "leave it out, or start over with FRESH=1"
            )

    def on_base(self, run: RunContext) -> None:
        self.base = self._measure(run)
        self._keep(run, BASE, "samples_base", "the base model", self.base)

    def on_task_end(self, run: RunContext, task: int) -> None:
        if self.when == "ends" and task + 1 < len(run.order):
            return
        name = run.order[task]
        self._keep(run, name, f"samples_after_{name}", f"task {task + 1}/{len(run.order)}", self._measure(run))

    def work(self, run: RunContext, task: int) -> dict[str, float]:
        """Count the measurements: of the base model, and after tasks."""
        return {STAGE: (task == 0) + (self.when == "each" or task + 1 == len(run.order))}

    def _measure(self, run: RunContext) -> Scores:
        from cl_lightning.evaluation.general.harness import HarnessLM
        from cl_lightning.evaluation.general.measure import measure

        if self.limit is not None and self.limit < distributed.world_size():
            raise ConfigError(f"observers.general: limit {self.limit} is less than the number of ranks; raise it")
        module = run.module
        extra = module.adapter.forward_kwargs if module.adapter.per_sample else None
        rows = module.most_prompts(self.batch_size)
        lm = HarnessLM(module.llm, module.tokenizer, module.answer_logits, rows, extra)
        with run.record.stages.within(STAGE, total=1):
            found = measure(lm, self._loaded, self.limit, self.chat)
            run.record.stages.advance()
        return {s: {name: found[entry] for name, entry in tasks.items()} for s, tasks in self.settings.items()}

    def _keep(self, run: RunContext, moment: str, file: str, model: str, scores: Scores) -> None:
        """Store figures with the base model's: print a line, log them, write the files."""
        figures = {
            setting: {name: figure(score, self.base[setting][name]) for name, score in tasks.items()}
            | {MEAN: figure(average(list(tasks.values())), average(list(self.base[setting].values())))}
            for setting, tasks in scores.items()
        }
        self.moments[moment] = figures
        cells = [f"{s} {of[MEAN].score:.1f} ({of[MEAN].difference:+.1f})" for s, of in figures.items()]
        run.say(f"  general ability of {model}, difference from the base: {'  '.join(cells)}{self._limited()}")
        values = {f"general/{s}/{name}": found.score for s, of in figures.items() for name, found in of.items()}
        run.log(values | {f"general/{s}/difference": of[MEAN].difference for s, of in figures.items()})
        items = [
            row for s, tasks in scores.items() for name, score in tasks.items() for row in item_rows(s, name, score)
        ]
        run.write(f"general/{file}.jsonl", to_jsonl(items))
        run.write(FILE, to_csv(COLUMNS, [row for name in self.moments for row in self._rows(name)]))

    def _limited(self) -> str:
        return "" if self.limit is None else f" (first {self.limit} items of each task only)"

    def _rows(self, moment: str) -> list[list[Any]]:
        """Make a row for each task of each setting, and one for their mean."""
        rows = []
        for setting, of in self.moments[moment].items():
            for name, found in of.items():
                entry = self.settings[setting].get(name)
                facts = [None] * 3 if entry is None else [entry.task, entry.metric, entry.shots]
                ends = [found.interval or (None, None), found.difference_interval or (None, None)]
                figures = [found.items, found.score, *ends[0], found.base, found.difference, *ends[1]]
                rows.append([moment, setting, name, *facts, *figures])
        return rows

    def tables(self) -> list[Table]:
        after = [name for name in self.moments if name != BASE]
        if not after:
            return []
        title = f"general ability, preset {Path(self.preset).stem}, by lm-eval{self._limited()}"
        columns = ["setting", "task", "metric", "shots", "items", f"after {after[-1]}", "95 % interval"]
        columns += ["base", "difference", "its 95 % interval"]
        rows = []
        for row in self._rows(after[-1]):
            _, setting, name, _, *facts = row[:7]
            found = self.moments[after[-1]][setting][name]
            cells = [found.score, format_interval(found.interval), found.base, found.difference]
            rows.append([setting, name, *facts, *cells, format_interval(found.difference_interval)])
        tables = [Table(title, columns, rows)]
        if len(after) > 1:
            columns = ["", *(column for s in self.settings for column in (s, "difference", "its 95 % interval"))]
            means = [[name if name == BASE else f"after {name}", *self._means(name)] for name in self.moments]
            tables.append(Table("its means, and their differences from the base model's", columns, means))
        return tables

    def _means(self, moment: str) -> list[Any]:
        means = [of[MEAN] for of in self.moments[moment].values()]
        return [cell for m in means for cell in (m.score, m.difference, format_interval(m.difference_interval))]

    def _asked(self) -> dict[str, Any]:
        entries = {s: {n: vars(e) for n, e in tasks.items()} for s, tasks in self.settings.items()}
        return {"settings": entries, "limit": self.limit, "chat": self.chat}

    def state(self) -> dict[str, Any]:
        base = {s: {name: asdict(score) for name, score in tasks.items()} for s, tasks in self.base.items()}
        moments = {
            moment: {s: {name: asdict(found) for name, found in of.items()} for s, of in figures.items()}
            for moment, figures in self.moments.items()
        }
        return {"asked": self._asked(), "base": base, "moments": moments}

    def load(self, state: dict[str, Any]) -> None:
        if state["asked"] != self._asked():
            raise ConfigError(
                "observers.general: the base model was measured with another preset, limit or chat setting; use that "
                "setting, or start over with FRESH=1"
            )
        if "moments" not in state:
            raise ConfigError(
                "observers.general: this run has no scores of single items; leave it out, or start over with FRESH=1"
            )
        self.base = {s: {n: score_from(score) for n, score in tasks.items()} for s, tasks in state["base"].items()}
        self.moments = {
            moment: {s: {name: Figure(**found) for name, found in of.items()} for s, of in figures.items()}
            for moment, figures in state["moments"].items()
        }
