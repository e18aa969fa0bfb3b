"""Greedy scoring of this package against transformers' plain batched `generate`, as `generate.py` compares them."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from _common import Stopwatch, summary
from generate import BATCH, adapted, generate, plain
from measure import forget_peak, peak_gib, run
from models import backbone_of
from words import words


def scoring(model: str, tiny: bool) -> Iterator[dict[str, Any]]:
    backbone = backbone_of(model, tiny)
    tokenizer = backbone.load_tokenizer()
    tokenizer.padding_side = "left"
    count, prompt, budget, rounds = (BATCH, 48, 4, 1) if tiny else (4 * BATCH, 256, 32, 2)
    data = words(tokenizer, count, prompt, 16, BATCH)
    # Ragged: each is cut a little shorter than the one before.
    prompts = [e.prompt_ids[i % (prompt // 2) :] for i, e in enumerate(data.tasks[0].test)]
    llm, watch = adapted(backbone, tokenizer), Stopwatch("wall")
    yield {"prompts": len(prompts), "new_tokens": budget, "batch": BATCH}
    answers: dict[str, list[str]] = {}

    def side(name: str, answer: Callable[[], list[str]]) -> dict[str, Any]:
        answers[name] = answer()  # prepares kernels
        forget_peak()
        seconds = []
        for _ in range(rounds):
            watch.start()
            answer()
            watch.stop()
            seconds.append(watch.seconds)
        rate = len(prompts) * budget / summary(seconds)["median_s"]
        return {"tokens_per_s": rate, "peak_gib": peak_gib(), **summary(seconds)}

    yield {"ours": side("ours", lambda: generate(llm, tokenizer, prompts, budget, BATCH))}
    yield {"peer": side("peer", lambda: plain(llm, tokenizer, prompts, budget))}
    equal = sum(a == b for a, b in zip(answers["ours"], answers["peer"], strict=True))
    yield {"equal_strings": equal / len(prompts)}  # in 16 bits ties break either way


if __name__ == "__main__":
    sys.exit(run(scoring))
