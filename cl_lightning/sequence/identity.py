"""A run's identity: the hash of what it computes. The one place that says which options are no part of it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

#: Sections that change where a run runs or what is watched, not what it computes.
OTHER_SECTIONS = ("sequence", "observers", "config")
#: Options of the other sections that do the same.
OTHER_OPTIONS = {
    "trainer": ("devices", "strategy", "accelerator", "num_nodes", "logger", "default_root_dir", "profiler"),
    "data": ("root", "eval_batch_size", "skip_missing"),  # the record's `data` says what was left out
}


def computed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a resolved configuration that decide what a run computes.

    The base model, and the LoRA that a run starts from, are known by their content, not by their names.
    """
    kept = {section: options for section, options in config.items() if section not in OTHER_SECTIONS}
    for section, names in OTHER_OPTIONS.items():
        kept[section] = {name: value for name, value in (kept.get(section) or {}).items() if name not in names}
    model = without(kept["model"], "start_from")  # the record's `adapter` has its content
    kept["model"] = {**model, "backbone": {**model["backbone"], "name": None}}
    return kept


def without(options: Any, name: str) -> Any:
    """Options less one of that name, at any depth."""
    if not isinstance(options, Mapping):
        return options
    return {key: without(value, name) for key, value in options.items() if key != name}


def run_identity(config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Hash of what a run computes: `computed` options, data and base. 12 hex digits."""
    named = {name: facts[name] for name in ("data", "base", "fingerprints", "continues")}
    if "start" in facts["adapter"]:
        named["start"] = facts["adapter"]["start"]
    text = json.dumps([computed(config), named], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
