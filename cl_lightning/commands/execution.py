"""Runs a sequence of built objects: checks them together, opens the run folder, trains, and draws the report.

For the command line and for scripts alike. Imports every room.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save as save_tensors

from cl_lightning.adapters.peft_lora import read_lora
from cl_lightning.commands.first_lines import INDENT, first_lines
from cl_lightning.commands.task_trainer import TaskTrainers, cut
from cl_lightning.common import distributed, stopping
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.files import report_disk_errors
from cl_lightning.common.memory import gc_frozen
from cl_lightning.common.options import hyperparameters
from cl_lightning.common.paths import LONGEST_PART, below, check_utf8, in_home, name_fault, part_fault
from cl_lightning.common.terminal import inform, say
from cl_lightning.common.wording import brief
from cl_lightning.common.yaml_files import parse_yaml
from cl_lightning.data.mix import NEW_ONLY
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.backbone import set_threads
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.names import dtype_fault
from cl_lightning.results.page.write import write_at_end
from cl_lightning.sequence import continuation, status
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.folder import CONFIG, START, RunFolder
from cl_lightning.sequence.identity import run_identity
from cl_lightning.sequence.run import SequenceRun
from cl_lightning.sequence.settings import SequenceSettings
from cl_lightning.sequence.unfinished import unfinished_of
from cl_lightning.sequence.versions import check_versions


def _as_it_is(section: str, options: dict[str, Any]) -> dict[str, Any]:
    return options


@dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
        module, data, settings, boundary, observers: its objects.
        trainers: makes the Trainer of each task.
        experiment: name of the experiment.
        label: names in short what was chosen differently from the experiment's own options.
        config: all options, plain.
        resolved: writes them for `config.yaml`; called once the data is prepared.
        as_written: (section, options) -> the options, with references to the environment in place of its values.
        show: called with the folder on rank 0 at the end, before the report is drawn.
    """

    module: ContinualLM
    data: TaskSequence
    settings: SequenceSettings
    boundary: dict[str, TaskCallback]
    observers: dict[str, TaskCallback]
    trainers: TaskTrainers
    experiment: str
    label: str
    config: dict[str, Any]
    resolved: Callable[[], str]
    as_written: Callable[[str, dict[str, Any]], dict[str, Any]] = _as_it_is
    show: Callable[[Path], None] = lambda path: None


def execute(parts: Parts) -> Path:
    """Check the parts, open the run folder, run or continue the sequence, and return the folder.

    Raises:
        UserError: something the user can fix.
    """
    module, data, settings = parts.module, parts.data, parts.settings
    check_together(module, data, parts.boundary, parts.observers)
    parts.trainers.check_machine()
    run_dir = _run_dir(settings, parts.experiment)
    set_threads(parts.trainers.processes, settings.threads)

    tokenizer = module.backbone.load_tokenizer()
    module.load(tokenizer)
    data.prepare(tokenizer, module.encoder_decoder)
    resolved = parts.resolved()
    if settings.continue_from and not data.protocol.builds_on:
        raise ConfigError(f"sequence.continue_from: a run with data.protocol={data.protocol.name} continues no other")
    start = _start(module)
    parent = (
        continuation.read_parent(settings.continue_from, module, data, start, parts.as_written("data", data.template))
        if settings.continue_from
        else None
    )
    facts = facts_of(parts.experiment, module, data, parent, start)
    facts["template"] = parts.as_written("data", facts["template"])
    facts |= {"name": settings.name, "label": parts.label}
    facts["data"] += cut(parts.trainers.options)
    facts["identity"] = run_identity(parts.config, facts)
    folder = RunFolder(run_dir or below(Path("runs"), f"{parts.experiment}/{facts['identity']}"))
    continuation.check_apart(settings.continue_from, folder.path)
    parts.trainers.check_apart(folder.path)
    parts.trainers.check_tasks()
    written = hyperparameters(parse_yaml(resolved, CONFIG))
    sequence = SequenceRun(
        module,
        data,
        folder,
        settings,
        parts.boundary,
        parts.observers,
        parts.trainers.make,
        facts,
        parts.trainers.loggers,
        written,
    )
    sequence.check()
    with closing(folder), gc_frozen(), report_disk_errors(folder.path):  # also loggers' and callbacks' files
        if _launches_here():
            begun = {CONFIG: resolved.encode()} | ({} if start is None else {START: start})
            _open(folder, sequence, parent, settings.fresh, begun)
            for line in _version_warnings(folder, parent, settings.other_versions):
                say(line, error=True)
            done, inside = folder.record["done"], unfinished_of(folder.record)
            stopping.set_message(status.saved(folder.path, done, data.order, settings.fresh, inside))
            for line in first_lines(parts.experiment, module, data, parts.boundary, facts["data"]):
                inform(line, hang=INDENT - 2)
            for name, lost in data.lost.items():
                inform(f"{name}: {lost}")
            if line := status.resumed(done, data.order, inside):
                inform(line)
        else:
            folder.attach()
        sequence.run()
        if _launches_here():
            parts.show(folder.path)
            if settings.report:
                write_at_end(folder.path)
    return folder.path


def _start(module: ContinualLM) -> bytes | None:
    """The LoRA to start from, as a run folder holds it; None without one. Raises ConfigError as `read_lora`."""
    adapter = module.adapter
    if adapter.start_from is None:
        return None
    factors = read_lora(in_home(adapter.start_from, "model.adapter.start_from"), adapter.layers)
    adapter.remarks.append(f"starts from the LoRA in {adapter.start_from}, on {len(factors) // 2} layers")
    return save_tensors(factors)


def facts_of(
    experiment: str,
    module: ContinualLM,
    data: TaskSequence,
    parent: continuation.Parent | None = None,
    start: bytes | None = None,
) -> dict[str, Any]:
    """Return the facts recorded when a run starts. Its identity is a hash of these and of the configuration."""
    return {
        "experiment": experiment,
        "name": None,
        "label": "",
        "data": data.source,
        "benchmark": data.benchmark.describe(data.root),
        "base": module.base_hash,
        "fingerprints": {t.spec.name: data.fingerprint([t]) for t in data.evaluated},
        "sources": {t.spec.name: t.whole for t in data.evaluated},
        "adapter": continuation.adapter_settings(module, start),
        "template": data.template,
        "continues": parent.record["identity"] if parent else None,
    }


def _open(
    folder: RunFolder,
    sequence: SequenceRun,
    parent: continuation.Parent | None,
    fresh: bool,
    begun: dict[str, bytes],
) -> None:
    """Create or reopen the run's folder, before other ranks read it. `begun`: the first files of a new run."""
    facts = sequence.record.facts
    folder.open(facts["identity"], fresh, sequence.record.content())
    if CONFIG in folder.files:
        if facts["name"] is not None and facts["name"] != folder.record["name"]:
            folder.amend(name=facts["name"])
        return  # the stored configuration stays; options that may differ now are not part of the identity
    if parent is not None:
        continuation.adopt(parent, folder, facts, sequence.data.order, begun[CONFIG])
    else:
        for name, data in begun.items():
            folder.write(name, data)
        folder.commit(folder.record)


def _version_warnings(folder: RunFolder, parent: continuation.Parent | None, allow: bool) -> list[str]:
    """Compare the versions of a run that is resumed or continued. Raises StateError as `check_versions`."""
    record = parent.record if parent is not None and not folder.record["attempts"] else folder.record
    if not record["done"] and record["unfinished"] is None:
        return []
    # The tasks of a parent are done, so that the new run's may differ from them.
    unfinished = record is folder.record and record["done"] < len(record["order"])
    warning = check_versions(record["versions"], unfinished, allow)
    return [] if warning is None else [warning]


def check_together(
    module: ContinualLM,
    data: TaskSequence,
    boundary: dict[str, TaskCallback],
    observers: dict[str, TaskCallback],
) -> None:
    """Raise ConfigError for combinations that cannot run, before anything is loaded."""
    reasons = [*filter(None, [dtype_fault(module.backbone.dtype)]), *module.adapter.check(boundary)]
    if not data.protocol.builds_on:
        reasons += [
            f"boundary.{slot} needs earlier tasks, which data.protocol={data.protocol.name} does not have; "
            f"use boundary.{slot}=null"
            for slot in boundary
            if slot != "init"
        ]
        if module.adapter.offset == "baked":
            reasons.append(
                f"model.adapter.offset: baked changes W, data.protocol={data.protocol.name} needs displacement"
            )
    both = sorted(boundary.keys() & observers.keys())
    reasons += [f"observers.{slot}: boundary has a slot of that name; rename it" for slot in both]
    if len(replaying := [slot for slot, callback in boundary.items() if callback.mix != NEW_ONLY]) > 1:
        reasons.append(
            f"{' and '.join(f'boundary.{slot}' for slot in replaying)} both replay examples; keep one of them, or use "
            "boundary.memory.train_ratio=0"
        )
    everyone = {**boundary, **observers}
    reasons += [
        f"the slot name {slot!r} {why}, and files are named by it; rename the slot"
        for slot in everyone
        if (why := part_fault(f"{slot}-1.json"))
    ]
    for slot, callback in everyone.items():
        reasons += callback.check(boundary, module.adapter)
        twins = [s for s, c in everyone.items() if type(c) is type(callback)]
        if len(twins) > 1 and slot == twins[0]:
            reasons.append(f"{type(callback).__name__} fills two slots ({', '.join(twins)}); keep one")
    if reasons:
        raise ConfigError("; ".join(reasons))


def _run_dir(settings: SequenceSettings, experiment: str) -> Path | None:
    """Return the run folder if the options name one, after checking that the run may use it."""
    check_utf8("sequence.experiment", experiment)
    check_utf8("sequence.run_dir", str(Path(settings.run_dir or "runs").absolute()))
    if settings.run_dir is None:
        if why := name_fault(experiment):
            raise ConfigError(
                f"sequence.experiment: the name {brief(experiment)!r} {why}, and the run's folder is named by it"
            )
        return None
    if any(len(part.encode()) > LONGEST_PART for part in Path(settings.run_dir).parts):
        raise ConfigError(f"sequence.run_dir: a name in it has more than {LONGEST_PART} bytes; choose a shorter one")
    continuation.check_apart(settings.continue_from, Path(settings.run_dir))
    if _launches_here():
        RunFolder(Path(settings.run_dir)).check(settings.fresh)
    return Path(settings.run_dir)


def _launches_here() -> bool:
    """Return whether this process is rank 0, which is known before the process group exists."""
    return distributed.rank() == 0
