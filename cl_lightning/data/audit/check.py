"""What is wrong with the data under a folder, before anyone trains on it: `cl-lightning data-check FOLDER`.

For every task of every benchmark that is found: counts, repeated prompts and contradicted ones, overlap of train, dev
and test, label balance, lengths, what the limits would cut, whether the metric fits. `--config FILE.yaml` looks at the
tasks written there instead (`data.benchmark` and `data.order`), with the limits written there. Findings are no errors:
the exit code is 0 unless there is nothing to look at.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

import cl_lightning.data
from cl_lightning.common import console
from cl_lightning.common.errors import DataError, UserError
from cl_lightning.data.audit import published
from cl_lightning.data.audit.profile import Limits, Measure, Profile, profile
from cl_lightning.data.audit.suitability import misfits
from cl_lightning.data.base import Benchmark
from cl_lightning.data.benchmarks.file_benchmark import FileBenchmark
from cl_lightning.data.benchmarks.trace import SUBSETS, TRACE
from cl_lightning.data.budget import with_budget


def in_folders() -> list[str]:
    """Names of the exported benchmarks that a folder can hold. Where two would read the same files, the first does.

    TRACE is last: it takes any folder with its two files for a task.
    """
    kinds = {name: getattr(cl_lightning.data, name) for name in cl_lightning.data.EXPORTS}
    return sorted((n for n, kind in kinds.items() if issubclass(kind, FileBenchmark)), key=lambda n: kinds[n] is TRACE)


@dataclass(frozen=True)
class Checked:
    """One task: where it belongs, its profile or why there is none, how its metric fails to fit its answers; whether
    it is a published task of the benchmark, no other folder's and not the sample's."""

    benchmark: str
    task: str
    profile: Profile | None
    fault: str = ""
    misfits: tuple[str, ...] = ()
    published: bool = False

    @property
    def flaws(self) -> list[str]:
        return [*self.profile.flaws(), *self.misfits] if self.profile else [self.fault]

    def row(self) -> dict[str, Any]:
        """Everything by name, for CSV."""
        return {"benchmark": self.benchmark, "task": self.task, **_fields(self.profile), "flaws": "; ".join(self.flaws)}


def found(root: Path) -> Iterator[tuple[str, Benchmark, str]]:
    """Benchmark and task of all data under `root`, each file once."""
    seen: set[str] = set()
    for name in in_folders():
        benchmark: Benchmark = getattr(cl_lightning.data, name)()
        for task in benchmark.tasks(root):
            there = [os.path.realpath(path) for path in benchmark.places(root, task) if path.exists()]
            if there and there[0] not in seen:
                seen.add(there[0])
                yield name, benchmark, task


def check(root: Path | None, name: str, benchmark: Benchmark, task: str, measure: Measure, limits: Limits) -> Checked:
    """Look at one task; data that cannot be read is a finding."""
    try:
        splits = benchmark.load(root, task)
    except DataError as error:
        return Checked(name, task, None, f"cannot be read: {error}")
    try:
        dev = benchmark.development(root, task)
    except DataError:  # no dev split, or an unusable one: nothing of ours reads it
        dev = ()
    spec = with_budget(benchmark.tasks(root), benchmark, limits.generated)[task]
    try:
        unfit = [told for metric in (spec.metric, *spec.also) for told in misfits(metric, splits.test)]
    except UserError as error:
        unfit = [f"cannot be scored: {error}"]
    known = root is not None and task in benchmark.published_epochs()
    return Checked(name, task, profile(spec, splits, dev, measure, limits), misfits=tuple(unfit), published=known)


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
    """Files of published tasks, wherever the readers take them from, whose rows are not the published ones."""
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
            continue  # told when the task was read
        if not same:
            said.append(f"{path}: its rows are not the published ones")
    return said


def unknown_sizes(checked: Sequence[Checked]) -> list[str]:
    """A line for each benchmark with published tasks whose published size nobody could compare."""
    found: dict[str, list[str]] = {}
    for c in checked:
        if c.profile and c.published:
            splits = [s for s, n in zip(("train", "test"), c.profile.expected, strict=True) if n is None]
            if splits:
                found.setdefault(c.benchmark, []).append(f"{c.task} ({' and '.join(splits)})")
    return [f"{benchmark}: published size not known of {', '.join(tasks)}" for benchmark, tasks in found.items()]


def table(checked: Sequence[Checked], unit: str, limits: Limits) -> Table:
    """All tasks that could be read, one a line."""
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
    return console.table(title, ("task", *columns), rows, left=("labels",))
