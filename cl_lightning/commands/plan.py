"""Says what an experiment takes before it is run: `cl-lightning plan NAME [--gpu-memory=80GiB] [--option=value]`.

Memory by part, steps, bytes on disk and time, from the model's configuration and the data: no weights are loaded. A
folder with the model's config.json is enough, as in --model.backbone.name=FOLDER; without a tokenizer all texts are
taken to be as long as data.max_prompt_tokens and data.max_answer_tokens allow. All options of `run` are taken.

--gpu-memory=SIZE: memory of one GPU, e.g. 80GiB or 24GB; says whether the run fits, or what to turn. The base is then
in the precision that a GPU has it in.
"""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cl_lightning.commands import precheck
from cl_lightning.commands.arguments import Arguments
from cl_lightning.commands.experiments import expanded
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.terminal import say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cl_lightning.commands.parser import ContinualCLI
    from cl_lightning.planning.work import Work
    from cl_lightning.sequence.settings import SequenceSettings

OPTION = "--gpu-memory"
#: Columns before the facts.
INDENT = 12
UNITS = {"GiB": 2**30, "GB": 10**9, "MiB": 2**20, "MB": 10**6}


def main(argv: list[str]) -> None:
    """Print the plan of an experiment, given its name and options of `run`."""
    if not argv or argv[0] in ("-h", "--help"):
        Arguments("plan", __doc__).parse_args(["--help"])
    limit, rest = gpu_memory(argv)
    sys.argv[1:] = expanded(rest)  # which the parser reads
    precheck.check(sys.argv[1:])
    from cl_lightning.commands.parser import make_cli
    from cl_lightning.common.noise import silence

    silence()
    show(make_cli(), limit)


def gpu_memory(argv: list[str]) -> tuple[int | None, list[str]]:
    """Take `--gpu-memory` out of the arguments. Returns its bytes, None without it, and the other arguments.

    Raises:
        ConfigError: it is no size.
    """
    limit, rest, words = None, [], list(argv)
    while words:
        word, equals, value = words.pop(0).partition("=")
        if word != OPTION:
            rest.append(f"{word}{equals}{value}")
            continue
        value = value if equals or not words else words.pop(0)
        found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?) ?(\w+)", value)
        if found is None or found[2] not in UNITS or not float(found[1]):
            raise ConfigError(f"{OPTION}: {value!r} is no size; write a number and {', '.join(UNITS)}, as in 80GiB")
        limit = int(float(found[1]) * UNITS[found[2]])
    return limit, rest


def show(cli: "ContinualCLI", limit: int | None) -> None:
    """Print the plan of what the options make, for a GPU of `limit` bytes or, without one, for this machine."""
    import torch

    from cl_lightning.common.console import Screen
    from cl_lightning.common.yaml_files import parse_yaml
    from cl_lightning.model.precision import held_dtype
    from cl_lightning.planning import duration, show
    from cl_lightning.planning.memory import Setting, rehearse
    from cl_lightning.sequence.settings import SequenceSettings

    backbone, settings = cli.model.backbone, SequenceSettings(**vars(cli.config_init.sequence))
    experiment, zero_shot = settings.experiment or "default", settings.zero_shot
    work, vocabulary = prepared(cli, settings)
    say(f"{experiment}: DATA = {work.data.source}")

    dtype = getattr(torch, backbone.dtype)
    held = held_dtype(dtype) if limit is None else dtype
    setting = Setting(held, str(cli.trainers.options.get("precision")), vocabulary or 0)
    found = rehearse(cli.model, work, cli.slots("boundary"), setting)
    _say_facts(show.amounts(work, found.prompts.rows, zero_shot, vocabulary is None))
    name = "4 bits" if backbone.load_in_4bit else str(held).removeprefix("torch.")
    _say_facts(show.contents(found, len(work.data.order), name))

    done = duration.products(work, found.products, backbone.gradient_checkpointing, zero_shot)
    if limit is not None and not torch.accelerator.is_available():
        estimate = duration.by_assumption(done)
    else:
        model = parse_yaml(cli.resolved(), "options")["model"]
        estimate = duration.by_earlier_run(Path("runs") / experiment, model, work, zero_shot)
        estimate = estimate or duration.by_arithmetic(done, found.prompts.rows, held)
    _say_facts(show.times(estimate))

    Screen().show("memory of one rank", [show.parts_table(found)])
    if found.left_out:
        say(f"not counted: what {', '.join(f'boundary.{slot}' for slot in found.left_out)} holds")
    for line in show.verdict(found, limit) if limit is not None else ():
        say(line)


def prepared(cli: "ContinualCLI", settings: "SequenceSettings") -> "tuple[Work, int | None]":
    """Check the options, read the data, and count the work. Returns also the tokenizer's size, None without one.

    Raises:
        UserError: something the user can fix.
    """
    from callbacks.replay_buffer import ReplayBuffer
    from cl_lightning.commands.execution import check_together
    from cl_lightning.model.backbone import set_threads
    from cl_lightning.model.moved_base import BaseMissing
    from cl_lightning.model.strategies import SHARDED
    from cl_lightning.planning.work import Division, Work
    from cl_lightning.sequence.callback import mix_of

    module, data, boundary, options = cli.model, cli.datamodule, cli.slots("boundary"), cli.trainers.options
    check_together(module, data, boundary, cli.slots("observers"))
    set_threads(cli.trainers.processes, settings.threads)
    try:
        tokenizer = module.backbone.load_tokenizer() if module.backbone.has_tokenizer() else None
    except BaseMissing as error:
        raise ConfigError(f"{error}; a folder with its config.json is enough to plan") from None
    if tokenizer is None:
        data.prepare_longest(module.backbone.encoder_decoder())
    else:
        data.prepare(tokenizer, module.backbone.encoder_decoder())
    ranks = cli.trainers.processes * (options.get("num_nodes") or 1)
    division = Division(ranks, options.get("accumulate_grad_batches") or 1, options.get("strategy") == SHARDED)
    memory = boundary.get("memory")
    kept = memory.capacity if isinstance(memory, ReplayBuffer) else 0
    work = Work(data, division, kept, mix_of(boundary))
    return work, None if tokenizer is None else len(tokenizer)


def _say_facts(facts: "Iterable[tuple[str, str]]") -> None:
    for name, fact in facts:
        say(f"  {name:<{INDENT - 2}}{fact}", hang=INDENT - 2)
