"""Scoring speed of this package's generation against transformers' plain batched `generate`.

Measured: seconds to generate greedily for the test prompts of one task, same model with a LoRA attached, same batch
size and token budget. Plain: in data order, each batch left-padded to its longest prompt. The ratio is the median
over rounds of seconds plain / ours. The strings of both must be equal in float32.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from _common import BACKBONE, Stopwatch, device, finish, interleaved, options, paired_ratio, start, summary, tasks
from transformers import PreTrainedModel

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.evaluation.generate import generate
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM

BATCH = 16


def adapted(backbone: Backbone, tokenizer: Any) -> PreTrainedModel:
    """Make a model with a branch large enough to change its answers."""
    module = ContinualLM(backbone, SeqLoRA(rank=8, alpha=16))
    module.load(tokenizer)
    rng = torch.Generator().manual_seed(0)
    module.adapter.begin_task(0, rng)
    for layer in module.adapter.layers.values():
        layer.lora_B.data.normal_(0, 0.01, generator=rng)
    return module.llm.to(device()).eval()


@torch.no_grad()
def plain(llm: PreTrainedModel, tokenizer: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
    """Generate like a plain transformers script."""
    texts = []
    for i in range(0, len(prompts), BATCH):
        rows = {"input_ids": [list(p) for p in prompts[i : i + BATCH]]}
        batch = tokenizer.pad(rows, return_tensors="pt").to(device())
        out = llm.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        texts += tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.removeprefix(" ") for text in texts]


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--task", default="FOMC")
    parser.add_argument("--samples", type=int, help="test prompts (default: 64; 16 with --quick)")
    parser.add_argument("--max-prompt-tokens", type=int, default=256)
    arguments = parser.parse_args()
    start(arguments)
    tokenizer = Backbone(BACKBONE).load_tokenizer()
    tokenizer.padding_side = "left"
    samples = arguments.samples or (BATCH if arguments.quick else 4 * BATCH)
    settings = {"train_samples": 1, "validation_samples": 0, "test_samples": samples}
    data = tasks(arguments, [arguments.task], tokenizer, max_prompt_tokens=arguments.max_prompt_tokens, **settings)
    task = data.tasks[0]
    prompts, budget = [e.prompt_ids for e in task.test], task.spec.max_new_tokens

    llm = adapted(Backbone(BACKBONE, dtype="float32"), tokenizer)
    ours, theirs = generate(llm, tokenizer, prompts, budget, BATCH), plain(llm, tokenizer, prompts, budget)
    different = sum(a != b for a, b in zip(ours, theirs, strict=True))
    print(f"{len(prompts)} strings in float32, {len(set(ours))} distinct: {different} differ from plain generate")
    if different:
        print("error: the strings differ", file=sys.stderr)
        return 1
    if arguments.dtype != "float32":
        llm = adapted(Backbone(BACKBONE, dtype=arguments.dtype), tokenizer)

    watch = Stopwatch(arguments.clock)

    def timed(side: Any, *more: Any) -> float:
        watch.start()
        side(llm, tokenizer, prompts, budget, *more)
        watch.stop()
        return watch.seconds

    sides = {"plain": lambda: timed(plain), "ours": lambda: timed(generate, BATCH)}
    seconds = interleaved(sides, arguments.rounds or (1 if arguments.quick else 5))
    for name, values in seconds.items():
        rates = summary(values)
        print(f"{name:<8} median {rates['median_s']:.2f} s, min {rates['min_s']:.2f} s")
    figures = {
        "task": arguments.task,
        "prompts": len(prompts),
        "max_new_tokens": budget,
        "batch_size": BATCH,
        "strings_that_differ": different,
        **{name: summary(values) for name, values in seconds.items()},
    }
    finish(arguments, "generate", {"generate_over_plain": paired_ratio(seconds["plain"], seconds["ours"])}, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
