"""Effect of an initialisation on the old task: SLICE's and the warm start beside LoRA-GA's, over seeds with intervals.

A round is a seed. The old task (FOMC) is trained with a plain LoRA, which is folded. The new task has the same prompts
with every label replaced by the next (A -> B -> C -> A), or is another one with --task. At the boundary between them

    G_new, G_old    token means of dNLL/dW over answers of the new task, and of the old one that was trained on
    G~              G_new after one-sided PCGrad against G_old, matrix by matrix

and the new task is then trained on the same batches from each start:

    LoRA-GA         SLICE's initialiser on G_new: the scale is SLICE's, so that only the subspace differs
    SLICE           SLICE's initialiser on G~
    warm start      SLICE, and the step -tau [G~]_2r is taken before training
    plain LoRA      B0 = 0, for reference

Measured: the first-order harm cos(dW, G_old) of a start's first SGD step (the warm start: of its own step), positive
where the old loss rises, with the G_old that surgery saw and with held-out examples'; and the true loss of held-out
old and new answers along k AdamW steps. No start except the warm one may change any bit of the old loss.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from _common import BACKBONE, Stopwatch, device, finish, options, start, tasks
from torch import Tensor

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.seeding import generator
from cl_lightning.data.collate import training_batch
from cl_lightning.data.prompt import Encoded
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.initializers.kaiming import Kaiming
from cl_lightning.initializers.slice import SLICE
from cl_lightning.initializers.start import start_of
from cl_lightning.linalg.gram import cosine, gram_matrix
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.surgery.pcgrad import PCGrad
from cl_lightning.surgery.reconcile import reconcile

#: Decays to 0 on the old task, which must be learnt for a conflict to exist, and is constant on the new one.
OLD, BATCH, RATE, CLIP = "FOMC", 8, 1e-3, 1.0
#: LoRA's alpha of plain branches, and of the spectral starts, whose factors are large (as in experiments/).
RANK, PLAIN_ALPHA, ALPHA = 8, 16, 2
#: Lowers the new loss about as much as LoRA-GA's first AdamW step, for ||G_new|| of about 50.
TAU = 1e-2
PLAIN, GA, SURGERY, WARM = STARTS = ("plain LoRA", "LoRA-GA", "SLICE", "warm start")
LOSSES = tuple(f"{task} {when}" for when in ("before", "after 1", "after k") for task in ("old", "new"))
COLUMNS = ("harm", "harm held out", *LOSSES)
#: Rises of the old loss since the boundary, which include a warm start's own step.
RISES = ("rise after 1", "rise after k")
COMPARED = ("harm held out", "rise after 1", "new after 1", "rise after k", "new after k")
#: 97.5 % quantiles of Student's t, by degrees of freedom from 1.
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
#: Steps on the old and on the new task; examples of each gradient and each held-out loss.
FULL, QUICK = (32, 16, 32), (4, 4, 8)
#: Start factors of every matrix: A0, B0, and dA, dB of a warm start.
Factors = dict[str, tuple[Tensor, ...]]


class Examples(NamedTuple):
    """The data of one seed."""

    old: Sequence[Encoded]
    new: Sequence[Encoded]
    held_out_old: Sequence[Encoded]
    held_out_new: Sequence[Encoded]


def draw(data: TaskSequence, seed: int, tokenizer: Any) -> Examples:
    """Draw both tasks' examples by the seed; flipped ones come in reverse order."""
    data.seed = seed
    data.prepare(tokenizer, encoder_decoder=False)
    old, new = data.tasks[0], data.tasks[-1]
    if new is not old:
        return Examples(old.train, new.train, old.test, new.test)
    labels = sorted({e.example.answer for e in old.train})
    following = dict(zip(labels, labels[1:] + labels[:1], strict=True))

    def flipped(those: Sequence[Encoded]) -> list[Encoded]:
        changed = (replace(e.example, answer=following[e.example.answer]) for e in those)
        return [data.encoder.encode(example, old.spec) for example in changed]

    return Examples(old.train, flipped(old.train[::-1]), old.test, flipped(old.test))


def batches(module: ContinualLM, those: Sequence[Encoded], size: int = BATCH) -> Iterator[dict[str, Any]]:
    """Make batches, longest first, weighted so that the summed loss is the mean over all answer tokens."""
    weight = 1.0 / sum(len(e.answer_ids) for e in those)
    by_length = sorted(those, key=lambda e: -e.length)
    for i in range(0, len(those), size):
        batch = training_batch(by_length[i : i + size], module.tokenizer.pad_token_id)
        batch["sample_weight"] = torch.full((len(batch["labels"]),), weight)
        yield {key: tensor.to(device()) for key, tensor in batch.items()}


@torch.no_grad()
def loss(module: ContinualLM, those: Sequence[Encoded]) -> float:
    """Compute the loss in nats per answer token."""
    return sum(float((module.sample_nll(b) * b["sample_weight"]).sum()) for b in batches(module, those, 4 * BATCH))


def training(module: ContinualLM, those: Sequence[Encoded], rates: Sequence[float]) -> Iterator[int]:
    """Take one AdamW step per rate on consecutive batches; yields the number of steps taken."""
    parameters = [p for group in module.adapter.param_groups() for p in group["params"]]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    for i, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        for batch in batches(module, those[i * BATCH : (i + 1) * BATCH]):
            (module.sample_nll(batch) * batch["sample_weight"]).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        yield i + 1


def learnt(drawn: Examples, dtype: str, steps: int, seed: int, tokenizer: Any) -> ContinualLM:
    """Train a model on the old task and fold its branch, up to the boundary."""
    module = ContinualLM(Backbone(BACKBONE, dtype=dtype), SeqLoRA(RANK, PLAIN_ALPHA))
    module.load(tokenizer)
    module.to(device())
    module.adapter.begin_task(0, generator(seed, "branch", 0))
    list(training(module, drawn.old, [RATE * (1 - i / steps) for i in range(steps)]))
    module.adapter.end_task(0)
    module.adapter.begin_task(1, generator(seed, "branch", 1))
    return module


def first_step(G: Tensor, A0: Tensor, B0: Tensor) -> Tensor:
    """Compute dW (m, n) / (eta s^2) of the first SGD step: -(B0 B0^T G + G A0^T A0)."""
    return -(B0 @ (B0.t() @ G) + (G @ A0.t()) @ A0)


def boundary(module: ContinualLM, drawn: Examples, samples: int, tau: float, seed: int) -> tuple[Any, Any, list[float]]:
    """Collect and reconcile gradients and make all starts. G_new and G_old share no prompt.

    Returns:
        Factors by start; inner products of (first step, G_old, held-out G_old) by start, summed over matrices;
        cosines of G_new and G_old, one per matrix.
    """
    chosen = (drawn.new[:samples], drawn.old[:samples], drawn.held_out_old)
    new, old, held_out = (module.gradients(batches(module, those)) for those in chosen)
    made: dict[str, Factors] = {key: {} for key in STARTS}
    grams = dict.fromkeys(STARTS, torch.zeros(3, 3))
    cosines = []
    for name, reconciled, record in reconcile(new, [old], PCGrad()):
        W = module.adapter.layers[name].dense_weight()
        plain, ga, surgery = (
            start_of(kind, W, statistic, RANK, ALPHA / RANK, generator(seed, "init", name), tau)
            for kind, statistic in ((Kaiming(), None), (SLICE(), new[name]), (SLICE(), reconciled))
        )
        tensors = (plain.tensors, ga.tensors[:2], surgery.tensors[:2], surgery.tensors)
        for key, factors in zip(STARTS, tensors, strict=True):
            made[key][name] = factors
            top = surgery.top
            step = LowRank(-top.left, top.right) if key == WARM else first_step(new[name], *factors)
            grams[key] = grams[key] + gram_matrix([step, old[name], held_out[name]])
        cosines.append(record.cosine)
    return made, grams, cosines


def measured(module: ContinualLM, drawn: Examples, key: str, factors: Factors, steps: int) -> dict[str, float]:
    """Train a new branch from one start, keeping the folded old task, and return the losses."""
    module.adapter.alpha = PLAIN_ALPHA if key == PLAIN else ALPHA
    for name, (A0, B0, *warm) in factors.items():
        module.adapter.set_factors(name, A0, B0)
        if warm:
            module.adapter.layers[name].shift_branch(*warm)
    found = [loss(module, drawn.held_out_old), loss(module, drawn.held_out_new)]
    for taken in training(module, drawn.new, [RATE] * steps):
        if taken in (1, steps):
            found += [loss(module, drawn.held_out_old), loss(module, drawn.held_out_new)]
    return dict(zip(LOSSES, found, strict=True))


def one_seed(arguments: argparse.Namespace, data: TaskSequence, tokenizer: Any, seed: int) -> dict[str, Any]:
    """Return statistics of the boundary of one seed, and COLUMNS and RISES of every start."""
    old_steps, steps, samples = QUICK if arguments.quick else FULL
    watch = Stopwatch(arguments.clock)
    watch.start()
    drawn = draw(data, seed, tokenizer)
    module = learnt(drawn, arguments.dtype, old_steps, seed, tokenizer)
    before = loss(module, drawn.held_out_old)
    made, grams, cosines = boundary(module, drawn, samples, arguments.tau, seed)
    starts = {}
    for key in STARTS:
        row = measured(module, drawn, key, made[key], steps)
        row |= {"harm": cosine(grams[key], 0, 1), "harm held out": cosine(grams[key], 0, 2)}
        starts[key] = row | {rise: row[rise.replace("rise", "old")] - before for rise in RISES}
    if any(starts[key]["old before"] != before for key in STARTS if key != WARM):
        sys.exit(f"error: a start changed the old loss, {before}, before any step: {starts}")
    watch.stop()
    share, median = statistics.fmean(c < 0 for c in cosines), statistics.median(map(abs, cosines))
    conflicts = f"conflict in {100 * share:.0f} % of {len(cosines)} matrices, median |cos| {median:.3f}"
    print(f"seed {seed}: old loss {before:.4f}, {conflicts} ({watch.seconds:.0f} s)", flush=True)
    found = {"seed": seed, "seconds": round(watch.seconds, 1), "old_loss": before}
    return found | {"conflict_share": share, "median_abs_cosine": median, "starts": starts}


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Compute the mean and half the width of its 95 % interval, t sd / sqrt(n); null for one value."""
    n = len(values)
    half = T975[n - 2] * statistics.stdev(values) / n**0.5 if n > 1 else None
    return {"mean": statistics.fmean(values), "half_95": half}


def show(title: str, columns: Sequence[str], rows: dict[str, dict[str, dict[str, float | None]]]) -> None:
    """Format a table of means +- halves."""
    print(f"{title:<21}" + "".join(f"{column:>16}" for column in columns))
    for name, cells in rows.items():
        halves = ["" if cells[c]["half_95"] is None else f" +- {cells[c]['half_95']:.3f}" for c in columns]
        texts = [f"{cells[c]['mean']:.3f}{half}" for c, half in zip(columns, halves, strict=True)]
        print(f"{name:<21}" + "".join(f"{text:>16}" for text in texts))


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--task", help="new task (default: the old one with its labels moved on)")
    parser.add_argument("--tau", type=float, default=TAU, help="of the warm start (default: %(default)s)")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    if rounds > len(T975) + 1:
        parser.error(f"--rounds: at most {len(T975) + 1}")
    start(arguments)
    old_steps, steps, samples = QUICK if arguments.quick else FULL
    tokenizer = Backbone(BACKBONE).load_tokenizer()
    counts = {"train_samples": BATCH * max(old_steps, steps), "test_samples": samples}
    names = [OLD] if arguments.task in (None, OLD) else [OLD, arguments.task]
    data = tasks(arguments, names, tokenizer, validation_samples=0, **counts)

    seeds = [one_seed(arguments, data, tokenizer, seed) for seed in range(rounds)]

    def over_seeds(column: str, key: str, other: str | None = None) -> dict[str, float | None]:
        rows = [seed["starts"] for seed in seeds]
        return interval([row[key][column] - (row[other][column] if other else 0.0) for row in rows])

    table = {key: {column: over_seeds(column, key) for column in (*COLUMNS, *RISES)} for key in STARTS}
    paired = {f"{key} - {GA}": {column: over_seeds(column, key, GA) for column in COMPARED} for key in (SURGERY, WARM)}
    print(f"mean over {rounds} seeds +- half a 95 % interval; k = {steps}, tau = {arguments.tau:g}")
    show("", COLUMNS, table)
    show("paired", COMPARED, paired)
    rise = {key: table[key]["rise after k"]["mean"] for key in STARTS}
    ratios = {
        f"{name}_over_loraga_old_loss_rise": rise[k] / rise[GA] for name, k in (("slice", SURGERY), ("warm", WARM))
    }
    figures = {"new_task": arguments.task or "flipped labels", "tau": arguments.tau, "old_steps": old_steps}
    figures |= {"k": steps, "samples": samples, "table": table, "paired": paired, "seeds": seeds}
    finish(arguments, "old_task_harm", ratios, figures, ratios)
    return 0


if __name__ == "__main__":
    sys.exit(main())
