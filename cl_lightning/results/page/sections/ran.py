"""Lists the data, the model and the method of a run."""

from typing import Any

from cl_lightning.results.page.parts import Section
from cl_lightning.results.page.source import Source
from cl_lightning.results.tables import state_of
from cl_lightning.sequence.folder import CONFIG


def section(run: Source) -> Section:
    """Build the list of facts."""
    with run.checked_content(CONFIG):
        return Section("What ran", facts=_facts(run))


def _facts(run: Source) -> list[tuple[str, str]]:
    record, config = run.record, run.config
    backbone, trainer = config["model"]["backbone"], config.get("trainer") or {}
    slots = {f"boundary.{slot}": _named(of) for slot, of in (config.get("boundary") or {}).items() if of is not None}
    facts = {
        "name": record.get("name"),
        "options": record.get("label"),
        "data": state_of(record),
        "benchmark": record["benchmark"],
        "tasks": f"{len(run.done)} of {len(record['order'])} done: {', '.join(record['order'])}",
        "protocol": record["protocol"],
        "model": f"{backbone['name']} ({backbone.get('dtype')}, {record['base'][:12]})",
        "adapter": _named(config["model"].get("adapter")),
        **slots,
        "learning rate": config["model"].get("lr"),
        "precision": trainer.get("precision"),
        "devices": record.get("world_size"),
        "seed": record["seed"],
        "steps": record["clock"].get("step"),
        "training tokens": record["clock"].get("tokens"),
        "processes": f"{record['attempts']}, each resumed from the one before",
        "continues": record["continues"],
        "versions": ", ".join(f"{name} {number}" for name, number in record.get("versions", {}).items()),
        "identity": record["identity"],
    }
    if record["attempts"] < 2:
        del facts["processes"]
    return [(name, _text(value)) for name, value in facts.items() if value not in (None, "")]


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _named(part: Any) -> str:
    """Format a class of the configuration with its options; nested classes by name only."""
    if not isinstance(part, dict):
        return _short(part)
    options = {k: v for k, v in (part.get("init_args") or {}).items() if v is not None}
    arguments = ", ".join(f"{name}={_short(value)}" for name, value in options.items())
    return f"{_short(part)}({arguments})"


def _short(value: Any) -> str:
    return str(value.get("class_path", value)).rpartition(".")[2] if isinstance(value, dict) else str(value)
