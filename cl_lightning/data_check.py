"""What is wrong with the data under a folder, before anyone trains on it: `python -m cl_lightning.data_check FOLDER`.

For every task of every benchmark that is found: counts, repeated prompts and contradicted ones, overlap of train, dev
and test, label balance, lengths, what the limits would cut, whether the metric fits. `--config FILE.yaml` looks at the
tasks written there instead (`data.benchmark` and `data.order`), with the limits written there. Findings are no errors:
the exit code is 0 unless there is nothing to look at.
"""

if __name__ == "__main__":
    from cl_lightning import stopping

    stopping.end_on_signals("nothing was changed")

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from rich.progress import track
from rich.table import Table

import cl_lightning.data
from cl_lightning import console
from cl_lightning.data import published
from cl_lightning.data.base import Benchmark, Example, check_order, data_root
from cl_lightning.data.budget import Budget, with_budget
from cl_lightning.data.files import read_text
from cl_lightning.data.profile import Limits, Measure, Profile, profile, words
from cl_lightning.data.trace import SUBSETS
from cl_lightning.data.user_tasks import UserTasks
from cl_lightning.errors import ConfigError, DataError, UserError, nearest
from cl_lightning.evaluation.fit import misfits
from cl_lightning.model_names import EMBEDDED
from cl_lightning.state import check_names, to_csv, write_output
from cl_lightning.terminal import say, say_error
from cl_lightning.yaml_files import parse_yaml

#: Those that a folder can hold; where two would read the same files, the first does.
BENCHMARKS = ("LongSequence", "SuperNI", "NISeq", "TRACE")


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
    for name in BENCHMARKS:
        benchmark: Benchmark = getattr(cl_lightning.data, name)()
        for task in benchmark.tasks(root):
            there = [os.path.realpath(path) for path in benchmark.places(root, task) if path.exists()]
            if there and there[0] not in seen:
                seen.add(there[0])
                yield name, benchmark, task


def written(config: Path) -> tuple[Benchmark, dict[str, Any]]:
    """The benchmark of a configuration file, UserTasks where it names no class, and its section `data`.

    Raises:
        ConfigError, DataError: one line that names the file.
    """
    try:
        data = parse_yaml(read_text(config), str(config))["data"]
        benchmark = data["benchmark"]
    except (KeyError, TypeError) as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"{config}: holds no data.benchmark ({told})") from None
    from cl_lightning.data.task_sequence import TaskSequence  # slow to import, and needed here alone

    options = signature(TaskSequence).parameters
    for name in data:
        if str(name).rstrip("+") not in options:
            raise ConfigError(f"{config}: unknown option 'data.{name}'; {nearest(str(name), options)}")
    if isinstance(benchmark, dict):
        benchmark = {"class_path": "cl_lightning.data.UserTasks", **benchmark}
    for name in cl_lightning.data.EXPORTS:
        getattr(cl_lightning.data, name)  # imported classes are known to class_path by their short names
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--benchmark", type=Benchmark, required=True)
    try:
        return parser.instantiate(parser.parse_object({"benchmark": benchmark})).benchmark, data
    except ArgumentError as error:
        raise ConfigError(f"{config}: {' '.join(str(error).split())}") from None


def chosen(benchmark: Benchmark, root: Path | None, order: Any) -> list[tuple[str, Benchmark, str]]:
    """The tasks that `data.order` names, as `found`. Raises ConfigError for an unknown one."""
    known = benchmark.tasks(root)
    names = benchmark.default_order(root) if order is None else order
    if not isinstance(names, list):
        raise ConfigError(f"data.order: {names!r} is no list of task names")
    check_order(names, known)
    check_names(names, names)
    kind = "own" if isinstance(benchmark, UserTasks) else type(benchmark).__name__
    return [(kind, benchmark, name) for name in names]


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


def _tokens(model: str, said: dict[str, Any]) -> tuple[Measure, int]:
    """Lengths in a model's tokens, and how many its chat template takes of every prompt."""
    from cl_lightning.backbone import Backbone
    from cl_lightning.data.chat import DAY
    from cl_lightning.data.prompt import PromptEncoder

    tokenizer = Backbone(model).load_tokenizer()
    given = said.get("system_prompt", ""), str(said.get("date", DAY)), said.get("template_args")
    ids, _, own = PromptEncoder(tokenizer, sys.maxsize, *given).prompt(Example("", "x", "x"), keep_head=0.5)

    def measure(texts: Sequence[str]) -> list[int]:
        return [len(i) for i in tokenizer(list(texts), add_special_tokens=False).input_ids] if texts else []

    return measure, len(ids) - (own[1] - own[0])


def budget(text: str) -> Budget:
    """A number, or "official"."""
    return "official" if text == "official" else int(text)


def _limit(given: dict[str, Any], name: str, default: int) -> int:
    value = default if given.get(name) is None else given[name]
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"data.{name}: {value!r} is no number of tokens")
    return value


def run(options: argparse.Namespace) -> None:
    """Check and print. Raises UserError."""
    own, said = written(Path(options.config)) if options.config else (None, {})
    root = data_root(options.root or (said.get("root") and str(said["root"])))
    if root is not None and not root.is_dir():
        raise ConfigError(f"{root} is not a folder")
    if own is not None:
        tasks = chosen(own, root, said.get("order"))
    elif root is None:
        raise ConfigError("no folder to look at; name one (make data-check DATA=FOLDER), or set CL_DATA")
    else:
        tasks = list(found(root))
    if not tasks:
        raise ConfigError(f"{root}: no data of {', '.join(BENCHMARKS)} there; README says how each is laid out")
    measure, template = (words, 0) if options.words else _tokens(options.model, said)
    given = {**said, **{name: value for name, value in vars(options).items() if value is not None}}
    limits = Limits(
        _limit(given, "max_prompt_tokens", Limits.prompt),
        _limit(given, "max_answer_tokens", Limits.answer),
        given.get("max_new_tokens"),
        template,
        end=0 if options.words else 1,
    )
    screen = console.console(width=200)
    if own is not None:
        say(f"DATA = {own.describe(root)}")
    watched = track(tasks, "reading", console=screen, transient=True, disable=not sys.stdout.isatty())
    checked = [check(root, *task, measure, limits) for task in watched]
    screen.print(table(checked, "words" if options.words else "tokens", limits))
    findings = [f"{c.benchmark} {c.task}: {flaw}" for c in checked for flaw in c.flaws]
    findings += [] if options.config or root is None else changed(root)
    say("findings" if findings else "nothing found")
    for line in findings:
        say(f"  {line}")
    for line in unknown_sizes(checked):
        say(f"note: {line}")
    if options.csv:
        rows = [c.row() for c in checked]
        write_output(Path(options.csv), to_csv(list(rows[0]), [list(row.values()) for row in rows]))
        say(f"written: {options.csv}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cl_lightning.data_check", description=__doc__)
    parser.add_argument("root", nargs="?", help="folder that data.root would name; default: the variable CL_DATA")
    parser.add_argument("--config", metavar="FILE", help="look at the tasks written there instead")
    parser.add_argument("--csv", metavar="FILE", help="write everything there, too; its folder is made")
    parser.add_argument(
        "--words", action="store_true", help="count words, not tokens: quick, and at most what tokens would be"
    )
    parser.add_argument("--model", default=next(iter(EMBEDDED)), help="whose tokens; default: the embedded model's")
    parser.add_argument("--max-prompt-tokens", type=int, metavar="N", help="as data.max_prompt_tokens; 256")
    parser.add_argument("--max-answer-tokens", type=int, metavar="N", help="as data.max_answer_tokens; 256")
    parser.add_argument(
        "--max-new-tokens", type=budget, metavar="N", help="as data.max_new_tokens: a number for all tasks, or official"
    )
    try:
        run(parser.parse_args())
    except UserError as error:
        say_error(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    stopping.leave(main())
