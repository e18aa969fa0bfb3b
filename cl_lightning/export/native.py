"""`--format=native`: writes the trained model, of any strategy, as a folder that `cl_lightning.load` reads.

The folder contains each task's branch (and gate) as stored in the run, and INDEX with the base model, the strategy's
options, the options of prompts, and a checksum of each branch. It contains no data, predictions or callback state, and
no path except the base's, if that is a folder.
"""

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from cl_lightning.common.errors import ConfigError, StateError
from cl_lightning.common.files import to_json
from cl_lightning.common.paths import below, name_fault, part_fault
from cl_lightning.common.wording import counted
from cl_lightning.export.card import base_description, card
from cl_lightning.export.loaded import PromptSettings
from cl_lightning.export.trained import Request, Trained
from cl_lightning.sequence.folder import adapter_file, read_checked
from cl_lightning.sequence.identity import without
from cl_lightning.sequence.stored import check_config

#: File that identifies a native export and describes its content.
INDEX = "cl_lightning.json"
SCHEMA = 1
#: What to do where a file of it cannot be read.
REMEDY = "obtain it or export it again"


def export(request: Request, out: Path) -> list[str]:
    """Write INDEX, the branches as safetensors, and README.md.

    Raises:
        StateError: see `export.trained`.
        ConfigError: see `export.trained`; options of other formats; or no task is learnt.
    """
    for option in ("rank", "dtype", "dequantize"):
        if getattr(request, option):
            raise ConfigError(f"--{option}: --format=native writes the branches unchanged; leave this option out")
    trained = Trained(request)
    if not trained.tasks:
        instead = "--format=peft" if trained.under else f"{trained.module.backbone.name} directly"
        raise ConfigError(f"{request.run}: {trained.name} contains no trained task; use {instead}")
    checksums = {}
    for name in [*trained.under, *map(adapter_file, trained.tasks)]:
        data = read_checked(request.run, trained.record, name)
        file = below(out, name)
        file.parent.mkdir(parents=True)
        file.write_bytes(data)
        checksums[name] = hashlib.sha256(data).hexdigest()
    (out / INDEX).write_bytes(to_json(_index(trained, checksums)))
    facts = [f"{counted(len(trained.tasks), 'branch', 'branches')} of {type(trained.module.adapter).__name__}"]
    (out / "README.md").write_bytes(card(trained, "cl-lightning", "a trained model of cl-lightning", HOW, facts))
    return [*facts, *base_description(trained.module.backbone)]


HOW = [
    "```python",
    "import cl_lightning",
    "",
    'loaded = cl_lightning.load("THIS FOLDER")',
    'loaded.generate(["a prompt, as the tasks\' prompts are"])',
    "```",
]


def _index(trained: Trained, checksums: dict[str, str]) -> dict[str, Any]:
    """Return the content of INDEX. Its keys are those of a run's record and configuration."""
    config, names = trained.config, [field.name for field in fields(PromptSettings)]
    model = {name: config["model"][name] for name in ("backbone", "adapter") if name in config["model"]}
    return {
        "schema": SCHEMA,
        "base": trained.record["base"],
        "order": trained.tasks,
        "files": checksums,
        "config": {
            "model": without(model, "start_from"),  # its content is among the files
            "data": {name: config["data"][name] for name in names if name in config["data"]},
        },
    }


def read_index(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read INDEX; return it as a run's record and configuration.

    Raises:
        StateError: INDEX is damaged, has another version, or names a file outside the folder.
    """
    file = below(folder, INDEX)
    try:
        index = json.loads(file.read_bytes())
        schema = index["schema"]
    except OSError as error:
        raise StateError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StateError(f"{file}: damaged; {REMEDY}") from None
    if schema != SCHEMA:
        raise StateError(f"{file}: version {schema}, this code reads version {SCHEMA}")
    if why := _fault(index):
        raise StateError(f"{file}: damaged ({why}); {REMEDY}")
    config = check_config(index.get("config"), file)
    return {**index, "done": len(index["order"]), "protocol": "sequential"}, config


def _fault(index: dict[str, Any]) -> str | None:
    """Return what is wrong with an index; None if nothing is."""
    order, files = index.get("order"), index.get("files")
    if not isinstance(index.get("base"), str):
        return "base is not text"
    if not isinstance(order, list):
        return "order is not a list"
    if not isinstance(files, dict) or not all(isinstance(checksum, str) for checksum in files.values()):
        return "files is not an object of checksums"
    for kind, names, fault in (("task", order, part_fault), ("file", files, name_fault)):
        for name in names:
            if why := fault(name):
                return f"the {kind} name {name!r} {why}"
    return None
