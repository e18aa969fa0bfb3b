"""Writes the model card (README.md) of an export: how to load it, base, tasks, scores, and data with licences."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cl_lightning.common.errors import UserError
from cl_lightning.common.paths import in_home
from cl_lightning.common.terminal import printable
from cl_lightning.data.base import Benchmark, data_root
from cl_lightning.export.trained import Trained
from cl_lightning.metrics.matrix import CONVENTIONS
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.names import EMBEDDED, RANDOM
from cl_lightning.results import thinned
from cl_lightning.sequence.folder import CONFIG, columns, metric_label
from cl_lightning.sequence.stored import build


def card(trained: Trained, library: str, kind: str, how: Sequence[str], facts: Sequence[str]) -> bytes:
    """Return the card as Markdown.

    Args:
        library: the library that loads the folder, by its name on the hub.
        kind: completes the sentence "This is ..".
        how: lines of Markdown that show how to load the folder.
        facts: one line for each property of this export, as printed.
    """
    record, backbone = trained.record, trained.module.backbone
    front: dict[str, Any] = {"library_name": library, "tags": ["continual-learning", "lora", "cl-lightning"]}
    if on_hub(backbone):
        front["base_model"] = backbone.name
    lines = [
        "---",
        *yaml.safe_dump(front, sort_keys=True).splitlines(),
        "---",
        f"# {_text(record['experiment'])}: {_text(trained.name)}",
        "",
        f"This is {kind}: {_text(trained.name)} of a sequence of {len(record['order'])} tasks, trained by cl-lightning "
        f"(run {_text(record['identity'])}, strategy {_text(record['adapter'].get('class'))}).",
        "",
        *(f"- {_text(fact)}" for fact in facts),
        "",
        "## How to load it",
        "",
        *how,
        "",
        "## Base model",
        "",
        *(_text(line) for line in base_description(backbone)),
        f"Content hash of the base in training: {_text(record['base'])}.",
        "",
        *_prompts(record),
        "## Sequence and scores",
        "",
        f"Tasks, in the order of training: {_text(', '.join(record['order']))}. Finished: {record['done']}.",
        "",
        *_scores(record),
        "",
        "## Data",
        "",
        *_data(trained),
        "",
    ]
    return ("\n".join(lines) + "\n").encode()


def on_hub(backbone: Backbone) -> bool:
    """Return True if the base is named as a model of a hub."""
    path = in_home(backbone.name, "model.backbone.name")
    return backbone.name not in (*EMBEDDED, RANDOM) and path.suffix != ".gguf" and not path.exists()


def base_description(backbone: Backbone) -> list[str]:
    """Describe the base model's weights and how to get them."""
    name, itself = backbone.name, "cl-lightning export RUN --format=merged --after=0 writes it as a folder."
    quantised = " It was quantised to 4 bits (nf4) in training." if backbone.load_in_4bit else ""
    if name in EMBEDDED:
        package, file = EMBEDDED[name]
        return [
            f"{name}: the weights of {file} in the Python package {package.replace('_', '-')}, dequantised to bfloat16."
            f" The hub's model of a similar name has other weights and gives other results.{quantised}",
            itself,
        ]
    if name == RANDOM:
        return [f"{name}: untrained weights that cl-lightning draws in code, for tests.", itself]
    if Path(name).suffix == ".gguf":
        return [f"{Path(name).name}: the weights of that GGUF file, dequantised to bfloat16.{quantised}", itself]
    revision = f", revision {backbone.revision}" if backbone.revision else ""
    return [f"{name}{revision}, in {backbone.dtype}.{quantised}"]


def _prompts(record: dict[str, Any]) -> list[str]:
    """List the options of prompts that were set beside the chat template."""
    given = {name: value for name, value in record["template"].items() if value not in (None, {})}
    if not given:
        return []
    options = [f"- {_text(name)}: {_text(repr(value))}" for name, value in given.items()]
    return [
        "## Prompts",
        "",
        "Prompts were written with the base's chat template, if it has one, and these options:",
        "",
        *options,
        "",
    ]


def _scores(record: dict[str, Any]) -> list[str]:
    """Format R as a table, then the sequence metrics."""
    names = [_text(name) for name in columns(record)]
    rows = [["after", *names], ["---"] * (len(names) + 1)]
    if record["zero_shot"] is not None:
        rows.append(["base model", *(_score(score) for score in record["zero_shot"])])
    rows += [[_text(a), *map(_score, row)] for a, row in zip(record["order"], thinned.marked(record), strict=False)]
    metrics = record["metrics"]
    sequence = [f"{name} {metrics[name]:.2f}" for name in CONVENTIONS if isinstance(metrics.get(name), int | float)]
    kinds = ", ".join(f"{_text(name)} {_text(metric_label(metrics, name))}" for name in columns(record))
    return [
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        f"Scores run over 0..100: {kinds}. Sequence metrics: {', '.join(sequence) or 'none yet'}.",
        *thinned.sentences(record),
    ]


def _score(value: float | str | None) -> str:
    return value or "" if value is None or isinstance(value, str) else f"{value:.2f}"


def _data(trained: Trained) -> list[str]:
    """Name the data, and each task's source and licence as the benchmark gives them."""
    options, record = trained.config["data"], trained.record
    about = [f"{_text(record['data'])}.", ""]
    file, root = trained.request.run / CONFIG, options.get("root")
    try:
        benchmark = build(Benchmark, options.get("benchmark"), "data.benchmark", file, trained.request.allow)
        specs = benchmark.tasks(data_root(root if isinstance(root, str) else None))
    except UserError as error:
        return [*about, f"The tasks' sources and licences are unknown ({_text(error)})."]
    known = [f"- {_text(n)}: {_text(specs[n].source or 'no source named')}" for n in columns(record) if n in specs]
    return [*about, *known, "", "These licences and that of the base model apply to anyone who shares this model."]


def _text(value: object) -> str:
    """Escape a value so that it is one line of plain text in Markdown."""
    return printable(value).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
