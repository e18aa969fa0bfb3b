"""Scoring all of TRACE's tasks after the last: this package's generation against transformers' plain `generate`.

Measured: seconds to generate greedily for the test prompts of all eight tasks, each with its own budget of new tokens,
by the same model with a LoRA briefly trained on all of them, so that it ends its answers like a trained model.
Plain: in data order, batches of 8, left-padded to the longest. Ours: batches of 32; the peak memory of both is
reported. The ratio is the median over rounds of seconds plain / ours, by default of one round since real files take
minutes; use `--rounds 3` for a median. Strings must be equal in float32, except for ties (the two logits at the first
token that differs, recomputed alone, differ by less than 1e-4). In the timed dtype the share of equal strings and the
differences of the scores are reported. The goal, a ratio of 2, is stated for bfloat16; if the machine holds that in
float32 (`--dtype auto`), a note says so.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _common import BACKBONE, Stopwatch, device, finish, interleaved, options, paired_ratio, start, summary, tasks
from transformers import PreTrainedModel

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.memory import release_memory
from cl_lightning.data.benchmarks.trace import TASKS
from cl_lightning.data.task_data import TaskData
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.evaluation.generate import continuations
from cl_lightning.metrics.registry import best_scores, mean_score
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM

PLAIN_BATCH, OUR_BATCH = 8, 32
TIE = 1e-4
#: Difference of the mean score, in points, above which a note is printed.
NOTABLE = 0.5
RATE = 1e-3

Rows = list[list[int]]
Side = Callable[[PreTrainedModel, Any, TaskData, int], Rows]


def trained(dtype: str, tokenizer: Any, data: TaskSequence, steps: int) -> ContinualLM:
    """Train a LoRA for some steps on batches of all tasks in turn."""
    module = ContinualLM(Backbone(BACKBONE, dtype=dtype), SeqLoRA(rank=8, alpha=16))
    module.load(tokenizer)
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    module.llm.to(device()).train()
    optimizer = torch.optim.AdamW(module.adapter.param_groups(), lr=RATE, weight_decay=0.0)
    turns = [list(data.boundary_loader(task.train, data.batch_size, 0, 1)) for task in data.tasks]
    for step in range(steps):
        turn = turns[step % len(turns)]
        batch = turn[step // len(turns) % len(turn)]
        batch = {key: v.to(device()) for key, v in batch.items() if isinstance(v, torch.Tensor)}
        loss = module.sample_nll(batch).sum() / (batch["labels"] != -100).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.llm.eval()
    return module


@torch.no_grad()
def plain(llm: PreTrainedModel, tokenizer: Any, task: TaskData, budget: int) -> Rows:
    """Generate like a plain transformers script."""
    rows: Rows = []
    for i in range(0, len(task.test), PLAIN_BATCH):
        prompts = {"input_ids": [list(e.prompt_ids) for e in task.test[i : i + PLAIN_BATCH]]}
        batch = tokenizer.pad(prompts, return_tensors="pt").to(device())
        out = llm.generate(**batch, max_new_tokens=budget, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        rows += out[:, batch["input_ids"].shape[1] :].tolist()
    return rows


def ours(llm: PreTrainedModel, tokenizer: Any, task: TaskData, budget: int) -> Rows:
    """Generate like `score_task`."""
    return continuations(llm, tokenizer, [e.prompt_ids for e in task.test], budget, OUR_BATCH)


def texts(tokenizer: Any, rows: Rows) -> list[str]:
    return [tokenizer.decode(row, skip_special_tokens=True).removeprefix(" ") for row in rows]


@torch.no_grad()
def is_tie(llm: PreTrainedModel, prompt: Sequence[int], a: list[int], b: list[int]) -> bool:
    """Return whether the logits of the first two tokens that differ, recomputed alone, hardly differ."""
    first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if first is None:
        return False
    logits = llm(torch.tensor([[*prompt, *a[:first]]], device=llm.device)).logits[0, -1]
    return abs(float(logits[a[first]] - logits[b[first]])) < TIE


def compare(module: ContinualLM, tokenizer: Any, data: TaskSequence, made: dict[str, list[Rows]]) -> dict[str, Any]:
    """Compare the strings of both sides: how many differ, how many not at a tie, and differences of the scores."""
    different = untied = total = 0
    scores = []
    for task, theirs, mine in zip(data.tasks, made["plain"], made["ours"], strict=True):
        a, b = texts(tokenizer, theirs), texts(tokenizer, mine)
        total += len(a)
        for example, x, y, s, t in zip(task.test, theirs, mine, a, b, strict=True):
            if s != t:
                different += 1
                untied += not is_tie(module.llm, example.prompt_ids, x, y)
        examples = [e.example for e in task.test]
        accepted, prompts = [e.accepted for e in examples], [e.prompt for e in examples]
        both = [mean_score(best_scores(task.spec.metric, strings, accepted, prompts)) for strings in (a, b)]
        scores.append(both[1] - both[0])
    return {
        "strings": total,
        "different": different,
        "different_not_at_a_tie": untied,
        "equal_share": round(1 - different / total, 4),
        "mean_score_difference": round(sum(scores) / len(scores), 3),
        "largest_score_difference": round(max(map(abs, scores)), 3),
    }


def remarks(dtype: str, loose: dict[str, Any], sizes: Sequence[int]) -> list[str]:
    """Return notes on how to read the result.

    Args:
        dtype: the timed dtype.
        loose: output of `compare` for it.
        sizes: number of prompts of each task.
    """
    notes = []
    if dtype != "bfloat16":
        notes.append(f"the goal of 2 is stated for bfloat16; this was timed in {dtype}")
    if abs(difference := loose["mean_score_difference"]) > NOTABLE:
        one = 100 / min(sizes)
        notes.append(
            f"in {dtype} the mean score differs by {difference:+.3f} points, more than {NOTABLE}; one string is up to "
            f"{one:.2f} points of its task's score and {one / len(sizes):.2f} of the mean"
        )
    return notes


class Peak:
    """Measures the peak memory inside the context beyond that held before, in bytes; None if not measurable."""

    def __enter__(self) -> "Peak":
        release_memory()
        self.value: int | None = None
        self.cuda = device().type == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        elif Path("/proc/self/clear_refs").exists():
            Path("/proc/self/clear_refs").write_text("5")
        self.before = self._read("VmRSS", torch.cuda.memory_allocated if self.cuda else None)
        return self

    def __exit__(self, *_: Any) -> None:
        peak = self._read("VmHWM", torch.cuda.max_memory_allocated if self.cuda else None)
        self.value = None if peak is None else peak - self.before

    @staticmethod
    def _read(key: str, cuda: Callable[[], int] | None) -> int | None:
        status = Path("/proc/self/status")
        if cuda is not None:
            return cuda()
        if not status.exists():
            return None
        return 1024 * int(next(x.split()[1] for x in status.read_text().splitlines() if x.startswith(f"{key}:")))


def main() -> int:
    parser = options(__doc__)
    parser.epilog = "One round by default; --rounds 3 gives a median."
    parser.add_argument("--samples", type=int, help="test prompts of each task (default: 64; 16 with --quick)")
    parser.add_argument("--steps", type=int, help="training steps (default: 24; 16 with --quick)")
    parser.add_argument("--checked", type=int, help="prompts of each task compared in float32 (default: 4; 2 quick)")
    parser.add_argument("--max-prompt-tokens", type=int, default=256)
    arguments = parser.parse_args()
    start(arguments)
    quick = arguments.quick
    tokenizer = Backbone(BACKBONE).load_tokenizer()
    tokenizer.padding_side = "left"
    samples = arguments.samples or (16 if quick else 64)
    steps = arguments.steps if arguments.steps is not None else (16 if quick else 24)
    checked = arguments.checked or (2 if quick else 4)
    settings = {"max_prompt_tokens": arguments.max_prompt_tokens, "system_prompt": "", "max_answer_tokens": 80}
    names = list(TASKS)
    common = {"train_samples": 80, "validation_samples": 0, **settings}
    data = tasks(arguments, names, tokenizer, test_samples=samples, **common)
    few = tasks(arguments, names, tokenizer, test_samples=checked, **common)
    sides: dict[str, Side] = {"plain": plain, "ours": ours}

    def run(module: ContinualLM, which: TaskSequence, side: Side) -> list[Rows]:
        return [side(module.llm, tokenizer, task, task.spec.max_new_tokens) for task in which.tasks]

    module = trained("float32", tokenizer, data, steps)
    exact = compare(module, tokenizer, few, {name: run(module, few, side) for name, side in sides.items()})
    print(f"float32: {exact}")
    if exact["different_not_at_a_tie"]:
        print("error: the strings differ", file=sys.stderr)
        return 1
    if arguments.dtype != "float32":
        module = trained(arguments.dtype, tokenizer, data, steps)

    watch, made, peaks = Stopwatch(arguments.clock), {}, {name: [] for name in sides}

    def timed(name: str) -> float:
        with Peak() as peak:
            watch.start()
            made[name] = run(module, data, sides[name])
            watch.stop()
        peaks[name].append(peak.value)
        return watch.seconds

    seconds = interleaved({name: lambda name=name: timed(name) for name in sides}, arguments.rounds or 1)
    loose = compare(module, tokenizer, data, made)
    print(f"{arguments.dtype}: {loose}")
    tokens = sum(row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
                 for rows in made["plain"] for row in rows)  # fmt: skip
    highest = {name: None if None in values else max(values) for name, values in peaks.items()}
    for name, values in seconds.items():
        peak = "" if highest[name] is None else f", peak +{highest[name] / 2**20:.0f} MiB"
        print(f"{name:<8} median {summary(values)['median_s']:.2f} s{peak}")
    notes = remarks(arguments.dtype, loose, [len(task.test) for task in data.tasks])
    for note in notes:
        print(f"note: {note}")
    figures = {
        "notes": notes,
        "prompts": loose["strings"],
        "generated_tokens": tokens,
        "training_steps": steps,
        "float32": exact,
        arguments.dtype: loose,
        "peak_bytes": highest,
        **{name: summary(values) for name, values in seconds.items()},
    }
    finish(arguments, "evaluate", {"evaluate_over_plain": paired_ratio(seconds["plain"], seconds["ours"])}, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
