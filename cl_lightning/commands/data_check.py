"""Reports problems of data before training: `cl-lightning data-check FOLDER`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from rich.progress import track

import cl_lightning.data
from cl_lightning.commands.arguments import Arguments
from cl_lightning.commands.option_errors import OptionParser
from cl_lightning.commands.precheck import check_class
from cl_lightning.common.console import Screen
from cl_lightning.common.errors import ConfigError, nearest
from cl_lightning.common.files import refuse_existing, to_csv, write_output
from cl_lightning.common.terminal import is_quiet, say
from cl_lightning.common.yaml_files import parse_yaml
from cl_lightning.data.audit.check import changed, check, found, in_folders, show, unknown_sizes
from cl_lightning.data.audit.links import links_out
from cl_lightning.data.audit.profile import Find, Limits, Measure, words
from cl_lightning.data.base import Benchmark, Example, TaskSpec, check_order, data_root
from cl_lightning.data.benchmarks.json_files import read_text
from cl_lightning.data.benchmarks.user_tasks import UserTasks
from cl_lightning.data.budget import Budget
from cl_lightning.data.per_task import TaskOptions, check_per_task
from cl_lightning.data.writable import lost_characters
from cl_lightning.model.names import EMBEDDED
from cl_lightning.sequence.folder import check_names

#: Options of `data` that are read as a run reads them.
TYPED = ("max_new_tokens", "per_task", "system_prompt")


def read_benchmark(config: Path) -> tuple[Benchmark, dict[str, Any]]:
    """Read the benchmark (UserTasks if no class is named) and the section `data` of a configuration file.

    Options in `TYPED` are checked and have their type.

    Raises:
        ConfigError, DataError: the message names the file.
    """
    try:
        data = parse_yaml(read_text(config), str(config))["data"]
        benchmark = data["benchmark"]
    except (KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"{config}: holds no data.benchmark ({reason})") from None
    from cl_lightning.data.task_sequence import TaskSequence  # slow to import, and needed only here

    options = signature(TaskSequence).parameters
    for name in data:
        if str(name).rstrip("+") not in options:
            raise ConfigError(f"{config}: unknown option 'data.{name}'; {nearest(str(name), options)}")
    if isinstance(benchmark, dict):
        benchmark = {"class_path": "cl_lightning.data.UserTasks", **benchmark}
    for name in cl_lightning.data.EXPORTS:
        getattr(cl_lightning.data, name)  # class_path takes the short names of imported classes
    parser = OptionParser()
    parser.add_argument("--data.benchmark", type=Benchmark, required=True)
    for name in TYPED:
        parser.add_argument(f"--data.{name}", type=options[name].annotation)
    typed = {name: data[name] for name in TYPED if name in data}
    try:
        check_class("data.benchmark", benchmark["class_path"] if isinstance(benchmark, dict) else benchmark)
        made = parser.instantiate(parser.parse_object({"data": {"benchmark": benchmark, **typed}})).data
        return made.benchmark, {**data, **{name: getattr(made, name) for name in typed}}
    except ConfigError as error:
        raise ConfigError(f"{config}: {error}") from None


def ordered_tasks(benchmark: Benchmark, root: Path | None, order: Any) -> list[tuple[str, Benchmark, str]]:
    """List the tasks of `data.order` in the form of `found`. Raises ConfigError for an unknown one."""
    known = benchmark.tasks(root)
    names = benchmark.default_order(root) if order is None else order
    if not isinstance(names, list):
        raise ConfigError(f"data.order: {names!r} is not a list of task names")
    check_order(names, known)
    check_names(names, names)
    kind = "own" if isinstance(benchmark, UserTasks) else type(benchmark).__name__
    return [(kind, benchmark, name) for name in names]


def _tokens(model: str, trusted: bool, said: dict[str, Any]) -> tuple[Measure, Callable[[str | None], int], Find]:
    """Return functions that measure lengths in a model's tokens, the chat template under a task's own system prompt (if
    any), and what the tokenizer cannot write."""
    from cl_lightning.data.chat import DAY
    from cl_lightning.data.prompt import PromptEncoder
    from cl_lightning.model.backbone import Backbone

    tokenizer = Backbone(model, trust_remote_code=trusted).load_tokenizer()
    given = said.get("system_prompt", ""), str(said.get("date", DAY)), said.get("template_args")
    encoder = PromptEncoder(tokenizer, sys.maxsize, *given)

    def template(system_prompt: str | None) -> int:
        found = encoder.encode(Example("", "x", "x"), TaskSpec("", "", 1, system_prompt=system_prompt))
        return len(found.prompt_ids) - (found.own[1] - found.own[0])

    def measure(texts: Sequence[str]) -> list[int]:
        return [len(i) for i in tokenizer(list(texts), add_special_tokens=False).input_ids] if texts else []

    return measure, template, partial(lost_characters, tokenizer)


def budget(text: str) -> Budget:
    """Parse a generation budget: a number, or "official"."""
    return "official" if text == "official" else int(text)


def _limit(given: dict[str, Any], name: str, default: int) -> int:
    value = default if given.get(name) is None else given[name]
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"data.{name}: {value!r} is not a number of tokens (1 or more)")
    return value


def run(options: argparse.Namespace) -> None:
    """Check the data and print the findings. Raises UserError."""
    own, said = read_benchmark(Path(options.config)) if options.config else (None, {})
    root = data_root(options.root or (said.get("root") and str(said["root"])))
    if root is not None and not root.is_dir():
        raise ConfigError(f"{root} is not a folder")
    if own is not None:
        tasks = ordered_tasks(own, root, said.get("order"))
    elif root is None:
        raise ConfigError("no data folder; name one (make data-check DATA=FOLDER), or set CL_DATA")
    else:
        tasks = list(found(root))
    if not tasks:
        raise ConfigError(f"{root}: no data of {', '.join(in_folders())} there; see docs/tasks.md")
    measured = (
        (words, lambda system_prompt: 0, Limits.lost)
        if options.words
        else _tokens(options.model, options.trust_remote_code, said)
    )
    measure, template, lost = measured
    given = {**said, **{name: value for name, value in vars(options).items() if value is not None}}
    limits = Limits(
        _limit(given, "max_prompt_tokens", Limits.prompt),
        _limit(given, "max_answer_tokens", Limits.answer),
        given.get("max_new_tokens"),
        template(None),
        end=0 if options.words else 1,
        lost=lost,
    )
    if own is not None:
        say(f"DATA = {own.describe(root)}")
    terminal = Screen(error=True)
    bar = track(tasks, "reading", console=terminal, transient=True, disable=is_quiet() or not terminal.is_terminal)
    per_task = said.get("per_task") or {}
    if own is not None:
        check_per_task(per_task, own.tasks(root))
    if options.csv is not None:
        refuse_existing("--csv", options.csv, options.overwrite)
    checked = [check(root, *task, measure, limits, per_task.get(task[2], TaskOptions()), template) for task in bar]
    show(checked, "words" if options.words else "tokens", limits, Screen())
    findings = [f"{c.benchmark} {c.task}: {flaw}" for c in checked for flaw in c.flaws]
    findings += [] if options.config or root is None else changed(root)
    say("")
    say("findings" if findings else "nothing found")
    for line in findings:
        say(f"  {line}")
    for line in [*unknown_sizes(checked), *(links_out(root) if root is not None else [])]:
        say(f"note: {line}")
    if options.csv is not None:
        rows = [c.row() for c in checked]
        write_output(options.csv, to_csv(list(rows[0]), [list(row.values()) for row in rows]))
        say(f"written: {options.csv}")


def main(argv: list[str]) -> None:
    """Check the data that `argv` names."""
    parser = Arguments("data-check", __doc__)
    parser.add_argument("root", nargs="?", help="folder of the data, as data.root (default: the variable CL_DATA)")
    parser.add_argument("--config", metavar="FILE", help="check the tasks of this configuration file instead")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write all figures to FILE; its folder is made")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --csv if it exists")
    parser.add_argument(
        "--words", action="store_true", help="measure lengths in words, which is fast; tokens are never fewer"
    )
    parser.add_argument(
        "--model",
        default=next(iter(EMBEDDED)),
        help="model whose tokenizer measures lengths (default: the embedded one)",
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="allow the model to run its own code")
    parser.add_argument("--max-prompt-tokens", type=int, metavar="N", help="as data.max_prompt_tokens (default: 256)")
    parser.add_argument("--max-answer-tokens", type=int, metavar="N", help="as data.max_answer_tokens (default: 256)")
    parser.add_argument(
        "--max-new-tokens", type=budget, metavar="N", help="as data.max_new_tokens: a number for all tasks, or official"
    )
    run(parser.parse_args(argv))
