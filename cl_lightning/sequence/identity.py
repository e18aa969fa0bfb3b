"""A run's identity: the hash of what it computes. The one truth of what is no part of it."""

import hashlib
import json
from typing import Any

from jsonargparse import Namespace

#: Options that change where or how fast a run runs, not what it computes: no part of its identity.
NOT_IDENTITY = ("sequence", "observers", "config")


NOT_IDENTITY_OF = {
    "trainer": ("devices", "strategy", "accelerator", "num_nodes", "logger", "default_root_dir", "profiler"),
    "data": ("root", "eval_batch_size", "skip_missing"),  # the source says what was left out
}


def run_identity(config: Namespace, facts: dict[str, Any]) -> str:
    """Hash of what the run computes: resolved configuration without paths, logger and devices; data; base."""
    kept = {k: v for k, v in config.as_dict().items() if k not in NOT_IDENTITY}
    for section, names in NOT_IDENTITY_OF.items():
        kept[section] = {k: v for k, v in kept[section].items() if k not in names}
    kept["model"]["backbone"] = {**kept["model"]["backbone"], "name": None}
    named = {k: facts[k] for k in ("data", "base", "fingerprints", "continues")}
    text = json.dumps([kept, named], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
