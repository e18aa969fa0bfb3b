"""A run's identity: the hash of everything that determines its results, and the options that do not."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

#: Sections that change where a run runs or what it logs, but not its results.
OTHER_SECTIONS = ("sequence", "observers", "config")
#: Options of the other sections that do not change its results.
OTHER_OPTIONS = {
    "trainer": ("devices", "strategy", "accelerator", "num_nodes", "logger", "default_root_dir", "profiler"),
    "data": ("root", "eval_batch_size", "skip_missing"),  # the record's `data` states what was skipped
}


def computed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Select the options of a resolved configuration that determine a run's results.

    The base model, and the LoRA that a run starts from, are identified by their content, not their names.
    """
    kept = {section: options for section, options in config.items() if section not in OTHER_SECTIONS}
    for section, names in OTHER_OPTIONS.items():
        kept[section] = {name: value for name, value in (kept.get(section) or {}).items() if name not in names}
    model = without(kept["model"], "start_from")  # the record's `adapter` has its content
    kept["model"] = {**model, "backbone": {**model["backbone"], "name": None}}
    return kept


def is_computed(option: str) -> bool:
    """Whether a flat option is among those of `computed`, where results may depend on it."""
    section, _, name = option.rstrip("+").partition(".")
    return section not in OTHER_SECTIONS and name.split(".")[0] not in OTHER_OPTIONS.get(section, ())


def without(options: Any, name: str) -> Any:
    """Options less one of that name, at any depth."""
    if not isinstance(options, Mapping):
        return options
    return {key: without(value, name) for key, value in options.items() if key != name}


def run_identity(config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Hash the `computed` options, the data and the base to 12 hex digits."""
    named = {name: facts[name] for name in ("data", "base", "fingerprints", "continues")}
    if "start" in facts["adapter"]:
        named["start"] = facts["adapter"]["start"]
    text = json.dumps([computed(config), named], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
