"""A whole sequence against Trainer + PEFT + `generate`, and against the procedure of SLICE's authors.

Measured: seconds and peak memory of a whole process, from its start to its end, for the same tasks, examples and steps:
gradients, start, training, scoring of every task seen so far. Ours is `cl-lightning run trace_slice` with all it does
besides (memory gradients, surgery, record, logs, report), without zero-shot scores. Theirs is `peers/trainer_peft.py`
with the fastest settings of the Trainer and of PEFT, which are found first, and the same with `--authors`. A ratio is
the median over rounds of seconds theirs / ours, with the smallest and the largest.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import BACKBONE, finish, options, start, tasks
from transformers import PreTrainedTokenizerBase

from cl_lightning.common.yaml_files import parse_yaml
from cl_lightning.model.backbone import Backbone

HERE = Path(__file__).parent
EXPERIMENT = HERE.parent / "experiments" / "trace_slice.yaml"
QUICK = ("FOMC", "NumGLUE-cm")


@dataclass
class Run:
    """What one process took."""

    wall: float
    cpu: float
    peak_bytes: int
    stages: dict[str, float]


def measured(command: list[str], folder: Path) -> tuple[Run, str]:
    """Run a command to its end and return what it took, stages left out, and the last line it printed."""
    out = folder / "output.txt"
    with out.open("wb") as file:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
    text = out.read_text(encoding="utf-8")
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with {process.returncode}:\n{text[-2000:]}")
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Run(wall, used.ru_utime + used.ru_stime, peak, {}), text.strip().splitlines()[-1]


def ours(given: list[str], folder: Path) -> Run:
    """Run the experiment in `folder`."""
    command = [sys.executable, "-m", "cl_lightning", "run", EXPERIMENT.stem, *given, f"--sequence.run_dir={folder}/run"]
    run, _ = measured(command, folder)
    state = json.loads((folder / "run" / "sequence.json").read_text(encoding="utf-8"))
    for task in state["costs"].values():
        for stage, seconds in task["seconds"].items():
            run.stages[stage] = run.stages.get(stage, 0.0) + seconds
    return run


def theirs(work: Path, settings: list[str], folder: Path) -> Run:
    """Run the peer."""
    run, line = measured([sys.executable, str(HERE / "peers" / "trainer_peft.py"), str(work), *settings], folder)
    run.stages = json.loads(line)
    return run


def fastest(work: Path, folder: Path) -> list[str]:
    """Find the peer's fastest settings, as options."""
    _, line = measured([sys.executable, str(HERE / "peers" / "trainer_peft.py"), str(work), "--try"], folder)
    tried = json.loads(line)
    print("settings of the Trainer and of PEFT:")
    for seconds, chosen in tried:
        names = [name for name, on in chosen.items() if on] or ["lean factors, batches by length, fused AdamW"]
        print(f"  {seconds:6.1f} s  {', '.join(names)}", flush=True)
    return [f"--{name.replace('_', '-')}" for name, on in tried[0][1].items() if on]


def write_work(file: Path, arguments: Any, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]) -> None:
    """Write the model's folder beside `file`, and what the peer does."""
    experiment = parse_yaml(EXPERIMENT.read_text(encoding="utf-8"), str(EXPERIMENT))
    base = parse_yaml((EXPERIMENT.parent / "_base.yaml").read_text(encoding="utf-8"), "_base.yaml")
    data = tasks(arguments, arguments.tasks, tokenizer, **settings)
    folder = file.parent / "model"
    Backbone(BACKBONE, dtype=arguments.dtype).load(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    content = {
        "model": str(folder),
        "dtype": arguments.dtype,
        "threads": arguments.threads,
        "rank": base["model"]["adapter"]["init_args"]["rank"],
        "alpha": experiment["model"]["adapter"]["init_args"]["alpha"],
        "lr": base["model"]["lr"],
        "batch_size": base["data"]["batch_size"],
        "eval_batch_size": base["data"]["eval_batch_size"],
        "gradient_samples": experiment["boundary"]["init"]["init_args"]["samples"],
        "tasks": [
            {
                "name": task.spec.name,
                "max_new_tokens": task.spec.max_new_tokens,
                "train": [{"prompt": list(e.prompt_ids), "answer": list(e.answer_ids)} for e in task.train],
                "test": [list(e.prompt_ids) for e in task.test],
            }
            for task in data.tasks
        ],
    }
    file.write_text(json.dumps(content), encoding="utf-8")


def main() -> int:
    base = parse_yaml((EXPERIMENT.parent / "_base.yaml").read_text(encoding="utf-8"), "_base.yaml")["data"]
    parser = options(__doc__)
    parser.add_argument("--tasks", nargs="+", help="their names (default: the experiment's; two with --quick)")
    parser.add_argument("--train-samples", type=int, help="per task (default: the experiment's; 8 with --quick)")
    parser.add_argument("--test-samples", type=int, help="per task (default: the experiment's; 2 with --quick)")
    arguments = parser.parse_args()
    start(arguments)
    arguments.tasks = arguments.tasks or (list(QUICK) if arguments.quick else base["order"])
    settings = {
        "train_samples": arguments.train_samples or (8 if arguments.quick else base["train_samples"]),
        "test_samples": arguments.test_samples or (2 if arguments.quick else base["test_samples"]),
        "validation_samples": 0,
        "max_prompt_tokens": base["max_prompt_tokens"],
        "max_answer_tokens": base["max_answer_tokens"],
        "system_prompt": base["system_prompt"],
    }
    given = [f"--data.{name}={value}" for name, value in settings.items()]
    given += [f"--data.order={json.dumps(arguments.tasks)}", "--sequence.zero_shot=false"]
    given += [f"--model.backbone.dtype={arguments.dtype}"]
    given += [f"--data.root={arguments.data}"] if arguments.data else []
    given += [f"--sequence.threads={arguments.threads}"] if arguments.threads else []
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        work = root / "work.json"
        write_work(work, arguments, Backbone(BACKBONE).load_tokenizer(), settings)
        best = [] if arguments.quick else fastest(work, root)
        runs: dict[str, list[Run]] = {"ours": [], "peft": [], "authors": []}
        for number in range(rounds):
            folder = root / str(number)
            folder.mkdir()
            runs["ours"].append(ours(given, folder))
            runs["peft"].append(theirs(work, best, root))
            runs["authors"].append(theirs(work, ["--authors", *best], root))
    return _show(arguments, runs, best)


def _show(arguments: Any, runs: dict[str, list[Run]], best: list[str]) -> int:
    ratios = {}
    figures: dict[str, Any] = {"tasks": arguments.tasks, "peer_settings": best}
    stages = list(dict.fromkeys(stage for each in runs.values() for stage in each[0].stages))
    print(f"{'seconds':<10}{'all':>8}" + "".join(f"{stage:>11}" for stage in stages) + f"{'other':>9}{'peak GiB':>10}")
    for side, each in runs.items():
        last = each[-1]
        row = [last.stages.get(stage, 0.0) for stage in stages]
        print(
            f"{side:<10}{last.wall:>8.1f}"
            + "".join(f"{seconds:>11.1f}" for seconds in row)
            + f"{last.wall - sum(row):>9.1f}{last.peak_bytes / 2**30:>10.2f}"
        )
        figures[side] = {
            "wall_s": [round(run.wall, 2) for run in each],
            "cpu_s": [round(run.cpu, 2) for run in each],
            "peak_bytes": max(run.peak_bytes for run in each),
            "stages_s": {stage: round(seconds, 2) for stage, seconds in last.stages.items()},
        }
    for side in ("peft", "authors"):
        found = sorted(
            getattr(slow, arguments.clock) / getattr(fast, arguments.clock)
            for slow, fast in zip(runs[side], runs["ours"], strict=True)
        )
        ratios[f"{side}_over_ours"] = found[len(found) // 2]
        figures[side]["ratio_range"] = [round(found[0], 3), round(found[-1], 3)]
        print(f"{side} / ours: {found[len(found) // 2]:.2f} ({found[0]:.2f} to {found[-1]:.2f})")
    memory = figures["ours"]["peak_bytes"] / figures["peft"]["peak_bytes"]
    print(f"peak memory ours / peft: {memory:.2f}")
    finish(arguments, "sequence", ratios, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
