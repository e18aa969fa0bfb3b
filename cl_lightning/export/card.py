"""The model card (README.md) of an exported model: base, sequence, scores, data with its licences, how to load it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cl_lightning.common.errors import UserError
from cl_lightning.common.terminal import printable
from cl_lightning.data.base import Benchmark, data_root
from cl_lightning.export.trained import Trained
from cl_lightning.metrics.matrix import CONVENTIONS
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.names import EMBEDDED, RANDOM
from cl_lightning.sequence.folder import CONFIG, columns, metric_label
from cl_lightning.sequence.stored import build


def card(trained: Trained, library: str, kind: str, how: Sequence[str], facts: Sequence[str]) -> bytes:
    """The card as Markdown.

    Args:
        library: the hub's name of the library that loads it.
        kind: what the folder holds, as the rest of "This is ..".
        how: lines of Markdown on loading it.
        facts: what the user is told of this export, a line each.
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
        *(_text(line) for line in base_told(backbone)),
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
    """Whether the base is named as a model of a hub."""
    path = Path(backbone.name).expanduser()
    return backbone.name not in (*EMBEDDED, RANDOM) and path.suffix != ".gguf" and not path.exists()


def base_told(backbone: Backbone) -> list[str]:
    """Which weights the base model is, and how to get them."""
    name, itself = backbone.name, "cl-lightning export RUN --format=merged --after=0 writes it as a folder."
    quantised = " It was quantised to 4 bits (nf4) in training." if backbone.load_in_4bit else ""
    if name in EMBEDDED:
        package, file = EMBEDDED[name]
        return [
            f"{name}: the weights of {file} in the Python package {package.replace('_', '-')}, dequantised to bfloat16."
            f" A hub's model of a like name has other weights, with which the results are not these.{quantised}",
            itself,
        ]
    if name == RANDOM:
        return [f"{name}: untrained weights that cl-lightning draws in code, for tests.", itself]
    if Path(name).suffix == ".gguf":
        return [f"{Path(name).name}: the weights of that GGUF file, dequantised to bfloat16.{quantised}", itself]
    revision = f", revision {backbone.revision}" if backbone.revision else ""
    return [f"{name}{revision}, held in {backbone.dtype}.{quantised}"]


def _prompts(record: dict[str, Any]) -> list[str]:
    """What prompts were written with, where that is more than the chat template."""
    given = {name: value for name, value in record["template"].items() if value not in (None, {})}
    if not given:
        return []
    told = [f"- {_text(name)}: {_text(repr(value))}" for name, value in given.items()]
    return ["## Prompts", "", "Prompts were written with the base's chat template, if it has one, given", "", *told, ""]


def _scores(record: dict[str, Any]) -> list[str]:
    """R as a table, and the sequence metrics."""
    names = [_text(name) for name in columns(record)]
    rows = [["after", *names], ["---"] * (len(names) + 1)]
    if record["zero_shot"] is not None:
        rows.append(["base model", *(_score(score) for score in record["zero_shot"])])
    rows += [[_text(a), *map(_score, row)] for a, row in zip(record["order"], record["R"], strict=False)]
    metrics = record["metrics"]
    told = [f"{name} {metrics[name]:.2f}" for name in CONVENTIONS if isinstance(metrics.get(name), int | float)]
    kinds = ", ".join(f"{_text(name)} {_text(metric_label(metrics, name))}" for name in columns(record))
    return [
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        f"Scores run over 0..100: {kinds}. Sequence metrics: {', '.join(told) or 'none yet'}.",
    ]


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _data(trained: Trained) -> list[str]:
    """Which data it was, and each task's source with its licence, as the benchmark says it."""
    options, record = trained.config["data"], trained.record
    about = [f"{_text(record['data'])}.", ""]
    file, root = trained.request.run / CONFIG, options.get("root")
    try:
        benchmark = build(Benchmark, options.get("benchmark"), "data.benchmark", file, trained.request.allow)
        specs = benchmark.tasks(data_root(root if isinstance(root, str) else None))
    except UserError as error:
        return [*about, f"The tasks' sources and licences are not known here ({_text(error)})."]
    known = [f"- {_text(n)}: {_text(specs[n].source or 'no source named')}" for n in columns(record) if n in specs]
    return [*about, *known, "", "Whoever shares this model minds these licences, and the base model's."]


def _text(value: object) -> str:
    """A text from anywhere in one line that Markdown takes as text."""
    return printable(value).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
