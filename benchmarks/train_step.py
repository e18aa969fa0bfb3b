"""Training speed and losses of this package against transformers' Trainer with a PEFT LoRA.

Measured: real (non-padding) tokens per second of the training loop (data loading, forward, backward, clipping,
AdamW) over one epoch of the same samples, rank 8 on all linear layers of the blocks, batch size 8; set-up is left
out. Ours runs like `cl-lightning`: its sampler under Lightning's Trainer. Theirs runs with its usual settings: padded
to the longest of the batch, random order. The ratio of a task is the median over rounds of tokens/s ours / theirs.
Before any timing both must give equal losses over 20 steps in float32.
"""

import logging
import sys
import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from _common import (
    BACKBONE,
    Stopwatch,
    device,
    finish,
    geometric_mean,
    interleaved,
    options,
    paired_ratio,
    start,
    summary,
    tasks,
)
from _epochs import BATCH, CLIP, RATE, our_epoch, their_epoch
from peft import LoraConfig, PeftModel, get_peft_model

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.data.collate import training_batch
from cl_lightning.data.prompt import Encoded
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM

TASKS = ["FOMC", "ScienceQA", "MeetingBank"]  # a short label; a rationale; a long prompt with a summary
RANK, ALPHA = 8, 16
TOLERANCE = 1e-3  # nats per answer token, of any step's loss


def our_model(backbone: Backbone, tokenizer: Any) -> ContinualLM:
    module = ContinualLM(backbone, SeqLoRA(RANK, ALPHA), lr=RATE)
    module.load(tokenizer)
    module.to(device())
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    return module


def their_model(backbone: Backbone, tokenizer: Any, autocast: bool = True) -> PeftModel:
    """Make the PEFT model. `autocast`: PEFT's default, adapters in float32."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    llm = backbone.load(len(tokenizer))
    return get_peft_model(llm, config, autocast_adapter_dtype=autocast).to(device())


def loss_difference(backbone: Backbone, examples: tuple[Encoded, ...], tokenizer: Any, steps: int) -> float:
    """Return the largest difference of the losses over `steps` steps from equal weights and batches, in float32."""
    wide = replace(backbone, dtype="float32")
    module, peft = our_model(wide, tokenizer), their_model(wide, tokenizer)
    with torch.no_grad():
        for name, layer in module.adapter.layers.items():
            theirs = peft.get_submodule(f"base_model.model.{name}")
            theirs.lora_A["default"].weight.copy_(layer.lora_A)
            theirs.lora_B["default"].weight.copy_(layer.lora_B)
    module.train()
    peft.train()
    sides = [[p for p in m.parameters() if p.requires_grad] for m in (module, peft)]
    optimizers = [torch.optim.AdamW(s, lr=RATE, weight_decay=0.0) for s in sides]
    worst = 0.0
    for step in range(steps):
        chosen = [examples[(step * BATCH + i) % len(examples)] for i in range(BATCH)]
        batch = {k: v.to(device()) for k, v in training_batch(chosen, tokenizer.pad_token_id).items()}
        ours = module.sample_nll(batch).sum() / sum(len(e.answer_ids) for e in chosen)
        losses = [ours, peft(**batch).loss]
        for loss, optimizer, parameters in zip(losses, optimizers, sides, strict=True):
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
        worst = max(worst, abs(float((losses[0] - losses[1]).detach())))
    return worst


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="their names (default: %(default)s)")
    parser.add_argument("--samples", type=int, help="training samples per task (default: 64; 16 with --quick)")
    parser.add_argument("--loss-steps", type=int, help="compared losses (default: 20; 5 with --quick)")
    parser.add_argument("--max-prompt-tokens", type=int, default=256)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning|transformers|torch")
    start(arguments)
    samples = arguments.samples or (16 if arguments.quick else 64)
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    tokenizer = Backbone(BACKBONE).load_tokenizer()
    tokenizer.padding_side = "right"
    data = tasks(
        arguments,
        arguments.tasks,
        tokenizer,
        train_samples=samples,
        validation_samples=0,
        test_samples=1,
        batch_size=BATCH,
        max_prompt_tokens=arguments.max_prompt_tokens,
    )

    steps = arguments.loss_steps or (5 if arguments.quick else 20)
    backbone = Backbone(BACKBONE, dtype=arguments.dtype)
    difference = loss_difference(backbone, data.tasks[0].train, tokenizer, steps)
    print(f"{steps} losses in float32 differ by {difference:.1e} at most ({TOLERANCE:.0e} allowed)", flush=True)
    if not difference <= TOLERANCE:
        print("error: the losses differ", file=sys.stderr)
        return 1

    watch = Stopwatch(arguments.clock)
    ours, peft = our_model(backbone, tokenizer), their_model(backbone, tokenizer)
    lean = None if arguments.dtype == "float32" else their_model(backbone, tokenizer, autocast=False)
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {"loss_steps": steps, "max_loss_difference": difference, "samples": samples}
    print(f"{'real tokens/s':<14}{'tokens':>8}{'ours':>8}{'PEFT':>8}{'ratio':>8}")
    for i, name in enumerate(arguments.tasks):
        examples = data.tasks[i].train
        tokens = sum(e.length for e in examples)
        sides = {
            "ours": partial(our_epoch, ours, data, i, watch),
            "peft": partial(their_epoch, peft, examples, tokenizer, watch),
        }
        if lean is not None:
            sides["peft_lean"] = partial(their_epoch, lean, examples, tokenizer, watch)
        seconds = interleaved(sides, rounds)
        ratios[name] = paired_ratio(seconds["peft"], seconds["ours"])
        rates = {side: round(tokens / summary(s)["median_s"], 1) for side, s in seconds.items()}
        figures[name] = {"tokens": tokens}
        figures[name] |= {side: {"tokens_per_s": rates[side], **summary(s)} for side, s in seconds.items()}
        print(f"{name:<14}{tokens:>8}{rates['ours']:>8.0f}{rates['peft']:>8.0f}{ratios[name]:>8.2f}", flush=True)
        if lean is not None:
            ratio = paired_ratio(seconds["peft_lean"], seconds["ours"])
            figures[name]["ratio_to_peft_lean"] = round(ratio, 3)
            print(f"  autocast_adapter_dtype=False: {rates['peft_lean']:>15.0f}{ratio:>8.2f}", flush=True)
    if lean is None:
        print("autocast_adapter_dtype=False is the same program in float32: not timed")
    ratios["geomean"] = geometric_mean(list(ratios.values()))
    finish(arguments, "train_step", ratios, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
