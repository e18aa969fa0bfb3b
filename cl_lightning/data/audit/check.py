"""Checks data before training: `cl-lightning data-check FOLDER`.

Reports for every task of every benchmark found in a folder: counts, repeated and contradicted prompts, overlap of the
splits, label balance, lengths, what the limits would cut, and whether the metric suits the answers. With
`--config FILE.yaml` it checks the tasks of that file (`data.benchmark` and `data.order`) under the limits given there.
Findings are not errors: the exit code is 0 unless there is nothing to check.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cl_lightning.data
from cl_lightning.common import console
from cl_lightning.common.errors import DataError, UserError
from cl_lightning.data.audit import published
from cl_lightning.data.audit.profile import Limits, Measure, Profile, profile
from cl_lightning.data.audit.suitability import metric_problems
from cl_lightning.data.base import Benchmark
from cl_lightning.data.benchmarks.file_benchmark import FileBenchmark
from cl_lightning.data.benchmarks.trace import SUBSETS, TRACE
from cl_lightning.data.budget import with_budget
from cl_lightning.data.per_task import TaskOptions, with_options, with_prompt


def in_folders() -> list[str]:
    """List the exported benchmarks that read folders. If two can read the same files, the first one does.

    TRACE is last because it accepts any folder with a train and a test file as a task.
    """
    kinds = {name: getattr(cl_lightning.data, name) for name in cl_lightning.data.EXPORTS}
    return sorted((n for n, kind in kinds.items() if issubclass(kind, FileBenchmark)), key=lambda n: kinds[n] is TRACE)


@dataclass(frozen=True)
class Checked:
    """The check of one task.

    Attributes:
        profile: None if the data cannot be read; `fault` then says why.
        metric_problems: reasons why the task's metrics do not suit its answers.
        published: whether it is a published task of the benchmark, rather than another folder or the sample.
    """

    benchmark: str
    task: str
    profile: Profile | None
    fault: str = ""
    metric_problems: tuple[str, ...] = ()
    published: bool = False

    @property
    def flaws(self) -> list[str]:
        return [*self.profile.flaws(), *self.metric_problems] if self.profile else [self.fault]

    def row(self) -> dict[str, Any]:
        """Return all fields by name, for CSV."""
        return {"benchmark": self.benchmark, "task": self.task, **_fields(self.profile), "flaws": "; ".join(self.flaws)}


def found(root: Path) -> Iterator[tuple[str, Benchmark, str]]:
    """Yield benchmark and task for all data under `root`, each file once."""
    seen: set[str] = set()
    for name in in_folders():
        benchmark: Benchmark = getattr(cl_lightning.data, name)()
        for task in benchmark.tasks(root):
            there = [os.path.realpath(path) for path in benchmark.places(root, task) if path.exists()]
            if there and there[0] not in seen:
                seen.add(there[0])
                yield name, benchmark, task


def check(
    root: Path | None,
    name: str,
    benchmark: Benchmark,
    task: str,
    measure: Measure,
    limits: Limits,
    options: TaskOptions = TaskOptions(),  # noqa: B008
    template: Callable[[str | None], int] | None = None,
) -> Checked:
    """Check one task; unreadable data is reported as a finding.

    Args:
        options: the task's own options.
        template: length of the chat template under a task's own system prompt; None: as in `limits`.
    """
    try:
        splits = with_prompt(benchmark.load(root, task), task, options)
    except DataError as error:
        return Checked(name, task, None, f"cannot be read: {error}")
    try:
        dev = benchmark.development(root, task)
    except DataError:  # no usable dev split; training and scoring never read it
        dev = ()
    spec = with_budget(benchmark.tasks(root), benchmark, limits.generated)[task]
    spec = with_options({task: spec}, {task: options})[task]
    limits = replace(
        limits,
        prompt=spec.max_prompt_tokens or limits.prompt,
        answer=options.max_answer_tokens or limits.answer,
        template=limits.template if template is None else template(spec.system_prompt),
    )
    try:
        problems = [line for metric in (spec.metric, *spec.also) for line in metric_problems(metric, splits.test)]
    except UserError as error:
        problems = [f"cannot be scored: {error}"]
    known = root is not None and task in benchmark.published_epochs()
    return Checked(
        name, task, profile(spec, splits, dev, measure, limits), metric_problems=tuple(problems), published=known
    )


def _fields(found: Profile | None) -> dict[str, Any]:
    values = vars(found) if found else dict.fromkeys(Profile.__dataclass_fields__)
    flat = {k: v for k, v in values.items() if k not in ("labels", "prompts", "answers", "expected")}
    for key in ("prompts", "answers"):
        flat |= {f"{key}_{which}": v for which, v in zip(("p50", "p95", "max"), values[key] or [None] * 3, strict=True)}
    return {**flat, "labels": _labels(values["labels"] or {})}


def _labels(shares: dict[str, float]) -> str:
    if len(shares) > 6:
        return f"{len(shares)} labels, {100 * min(shares.values()):.1f}-{100 * max(shares.values()):.1f} %"
    return ", ".join(f"{label} {100 * share:.0f} %" for label, share in shares.items())


def changed(root: Path) -> list[str]:
    """List the files of published tasks whose rows differ from the published ones."""
    known = [
        (path, file.checksum)
        for file in published.files(SUBSETS)
        if file.checksum
        for path in published.copies(file, root)
    ]
    said = []
    for path, checksum in known:
        try:
            same = published.checksum(path) == checksum
        except DataError:
            continue  # already reported when the task was read
        if not same:
            said.append(f"{path}: its rows differ from the published ones")
    return said


def unknown_sizes(checked: Sequence[Checked]) -> list[str]:
    """List, one line per benchmark, the published tasks whose published size is not known."""
    found: dict[str, list[str]] = {}
    for c in checked:
        if c.profile and c.published:
            splits = [s for s, n in zip(("train", "test"), c.profile.expected, strict=True) if n is None]
            if splits:
                found.setdefault(c.benchmark, []).append(f"{c.task} ({' and '.join(splits)})")
    return [f"{benchmark}: no published size is known for {', '.join(tasks)}" for benchmark, tasks in found.items()]


def show(checked: Sequence[Checked], unit: str, limits: Limits, screen: console.Screen) -> None:
    """Print a table with one row per readable task, in the terminal's width."""
    columns = ("train/dev/test", "repeated", "contradicted", "test in train", "dev in test", "labels", f"prompt {unit}",
               f"answer {unit}", "cut", "long", "over budget")  # fmt: skip
    cut, long = limits.prompt - limits.template, limits.answer - limits.end
    title = f"data: {unit} are median/95 %/longest; prompts over {cut} are cut, answers over {long} long"
    rows = []
    for c in checked:
        if (p := c.profile) is not None:
            cells = (f"{p.train}/{p.dev}/{p.test}", p.repeated, p.contradicted, p.leaked, p.dev_in_test,
                     _labels(p.labels), "/".join(map(str, p.prompts)), "/".join(map(str, p.answers)),
                     p.cut_prompts, p.long_answers, p.over_budget)  # fmt: skip
            rows.append((f"{c.benchmark} {c.task}", *cells))
    screen.show(title, console.tables(("task", *columns), rows, ("labels",), width=screen.width))
