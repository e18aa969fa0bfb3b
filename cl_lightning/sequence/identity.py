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

    The base model is identified by its content, not its name.
    """
    kept = {section: options for section, options in config.items() if section not in OTHER_SECTIONS}
    for section, names in OTHER_OPTIONS.items():
        kept[section] = {name: value for name, value in (kept.get(section) or {}).items() if name not in names}
    kept["model"] = {**kept["model"], "backbone": {**kept["model"]["backbone"], "name": None}}
    return kept


def run_identity(config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Hash the `computed` options, the data and the base to 12 hex digits."""
    named = {name: facts[name] for name in ("data", "base", "fingerprints", "continues")}
    text = json.dumps([computed(config), named], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
