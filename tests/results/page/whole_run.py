"""A run folder with everything that a page can show, written as runs write theirs, of any size."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save

from callbacks.gate_orthogonalization import COLUMNS as GATE_COLUMNS
from callbacks.gate_orthogonalization import SUMMARY
from callbacks.input_subspaces import COLUMNS as SUBSPACE_COLUMNS
from cl_lightning.common.files import to_csv, to_json, to_jsonl
from cl_lightning.data.protocol import PROTOCOLS
from cl_lightning.metrics.bootstrap import interval
from cl_lightning.sequence.folder import ZERO_SHOT, RunFolder, adapter_file, prediction_file
from cl_lightning.surgery.report import BOUNDARY_COLUMNS, COLUMNS
from tests.results.test_compare import CONFIG, NOTHING_MORE

COST = {
    "seconds": {"training": 2.5, "scoring": 1.5}, "peak_bytes": {"training": 2**20, "scoring": 2**21},
    "tokens_per_second": 100.0, "trained_parameters": 14, "stored_parameters": 14, "stored_bytes": 56,
}  # fmt: skip
#: (task, what it was trained last, example) -> what the model answered.
Answer = Callable[[str, str, int], str]


def whole_run(
    path: Path,
    tasks: Sequence[str],
    examples: int = 4,
    answer: Answer = lambda task, after, k: f"answer {k} of {task} after {after}",
    layers: int = 2,
    done: int | None = None,
    facts: dict[str, Any] | None = None,
) -> Path:
    """A sequential run of `tasks`, `done` of them finished."""
    rng, order = random.Random(0), list(tasks)
    finished = order[:done]
    folder = RunFolder(path)
    path.mkdir(parents=True)
    boundary = {"memory": {"class_path": "callbacks.ReplayBuffer", "init_args": {"capacity": 8, "train_ratio": 0.25}}}
    folder.write("config.yaml", yaml.safe_dump({**CONFIG, "boundary": boundary}).encode())

    intervals: dict[str, dict[str, Any]] = {}
    scores: dict[str, dict[str, float]] = {}
    for i, after in enumerate([ZERO_SHOT, *finished]):
        for j, task in enumerate(order if i == 0 else finished[:i]):
            chance = 0.1 if i == 0 else 0.9 - 0.05 * (i - 1 - j)
            values = [100.0 * (rng.random() < chance) for _ in range(examples)]
            rows = [
                {"id": f"{task}/{k}", "prediction": answer(task, after, k), "reference": f"right {k}", "score": value}
                for k, value in enumerate(values)
            ]
            folder.write(prediction_file(after, task), to_jsonl(rows))
            scores.setdefault(after, {})[task] = fmean(values)
            intervals.setdefault(after, {})[task] = interval(values)
    R = [[scores[after].get(task) for task in order] for after in finished]
    zero_shot = [scores[ZERO_SHOT][task] for task in order]

    for n, task in enumerate(finished):
        share = [rng.random() for _ in range(8)]
        matrices = [
            f"model.layers.{layer}.self_attn.{name}" for layer in range(layers) for name in ("q_proj", "v_proj")
        ]
        cells = [rng.uniform(-1, 1), None, 1, 1, "1 0.5", 1.0, 1.0, 1.0, share[0], share[1], 0.1, 0.1]
        first = [*cells[:10], None, None]
        rows = [[matrix, *(cells if n else first)] for matrix in matrices]
        folder.write(f"surgery/{task}.csv", to_csv(COLUMNS, rows))
        seen = finished[: n + 1]
        gates = [[task, gate, prompts, rng.random(), rng.random()] for prompts in seen for gate in seen]
        folder.write(f"gates/{task}.csv", to_csv(GATE_COLUMNS, gates))
        kept = {name: [{"id": "x", "prompt": "SECRET", "answer": "SECRET"}] * (8 // (n + 1)) for name in seen}
        folder.write(f"state/memory-{n + 1}.json", to_json({"examples": kept}))
        folder.write(adapter_file(task), save({"A": np.zeros((2, 3), np.float32), "B": np.zeros((4, 2), np.float32)}))
    probed = [f"probe/{task}/{kind}" for task in finished for kind in ("loss", "exact")]
    write_log(path, 0, [(step, step // 3, 5.0 / (step + 1)) for step in range(3 * len(finished))], probed)

    tables = {
        "init": [{"title": "boundaries", "columns": BOUNDARY_COLUMNS, "rows": [[t, *[0.5] * 10] for t in finished]}],
        "subspaces": [{"title": "inputs", "columns": SUBSPACE_COLUMNS, "rows": [[t, *[50.0] * 6] for t in finished]}],
        "gates": [{"title": "gates", "columns": SUMMARY, "rows": [[t, 1.0, "10 20", *[0.5] * 4] for t in finished]}],
    }
    metrics = {
        **NOTHING_MORE, **PROTOCOLS["sequential"].summary(R, zero_shot), "intervals": intervals, "zero_shot": zero_shot,
        "metric_of_task": dict.fromkeys(order, "accuracy"), "majority": [50.0] * len(order),
        "trained": [14] * len(finished), "baseline_intervals": {"majority": [[40.0, 60.0]] * len(order)},
    }  # fmt: skip
    record = {
        "identity": "0123456789ab", "order": order, "columns": order, "protocol": "sequential", "done": len(finished),
        "R": R, "zero_shot": zero_shot, "clock": {"step": 3 * len(finished), "tokens": 1000}, "attempts": 1,
        "tables": tables, "adapter": {}, "benchmark": "sample", "template": {}, "metrics": metrics,
        "experiment": "whole", "data": "sample", "base": "b" * 16, "seed": 1, "continues": None, "versions": {},
        "costs": {task: {**COST} for task in finished},
        "fingerprints": dict.fromkeys(order, "x"), "sources": dict.fromkeys(order, "x"),
    }  # fmt: skip
    folder.commit({**record, **(facts or {})})
    folder.export({"metrics.json": to_json(metrics)})
    return path


def write_log(path: Path, attempt: int, steps: Sequence[tuple[int, int, float]], probed: Sequence[str] = ()) -> None:
    """The CSV log of an attempt: (step, task, loss) each, with a line of Lightning's own after the first.

    `probed`: names of further values.
    """
    heads = ["cl/step", "cl/task", "cl/tokens", "train/loss", "train/lr", "train/penalty", *probed]
    probes = [2.5] * len(probed)
    rows: list[list[Any]] = [[step + 1, task, 10 * (step + 1), loss, 0.1, None, *probes] for step, task, loss in steps]
    rows.insert(1, [None, None, None, None, None, 0.5, *[None] * len(probed)])
    folder = path / f"logs/attempt_{attempt}"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_bytes(to_csv(heads, rows))
