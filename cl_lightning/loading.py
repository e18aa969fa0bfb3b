"""Load a finished (or unfinished) run from its folder, for scripts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from safetensors.torch import load as load_tensors

from cl_lightning.errors import StateError
from cl_lightning.module import ContinualLM
from cl_lightning.state import adapter_file, read_checked, read_record


@dataclass(frozen=True)
class LoadedRun:
    """A run's results and its model.

    Attributes:
        module: the LLM with every (chosen) finished task's branch in place.
        matrix: R[i][j], score on task j after task i, 0..100; None where not scored.
        record: everything sequence.json says (order, data, seed, versions, ...).
    """

    module: ContinualLM
    matrix: list[list[float | None]]
    record: dict[str, Any]


def load_run(path: str | Path, tasks: int | None = None) -> LoadedRun:
    """Rebuild the model of a run folder from its base and its stored branches.

    Args:
        path: the run folder.
        tasks: the model as it was scored after so many tasks, 0 being the base; None: after all that are done.

    Raises:
        StateError: no run folder, or a damaged or foreign one.
        ConfigError: the base model is not to be had here.
    """
    folder = Path(path)
    record = read_record(folder)
    alone = record.get("protocol") == "independent"
    if alone and tasks is None:
        raise StateError(
            f"{folder}: holds one model per task (data.protocol=independent), there is no one model to load; "
            "tasks=1 is the first task's, tasks=2 the second's"
        )
    config = yaml.safe_load(read_checked(folder, record, "config.yaml"))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ContinualLM, "model")
    module = parser.instantiate(parser.parse_object({"model": config["model"]})).model
    module.load(module.backbone.load_tokenizer())
    if module.base_hash != record["base"]:
        raise StateError(f"{folder}: was trained on another base model than {module.backbone.name} is now")
    done = record["order"][: record["done"] if tasks is None else tasks]
    kept = done[-1:] if alone else done
    module.adapter.restore([load_tensors(read_checked(folder, record, adapter_file(name))) for name in kept])
    return LoadedRun(module.eval(), record["R"], record)
