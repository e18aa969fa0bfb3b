"""Conflict appears only after the old task was learnt: the same prompts with permuted labels, before and after."""

from collections.abc import Callable, Sequence

import torch

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.data.base import Example
from cl_lightning.data.prompt import Encoded
from cl_lightning.linalg.gram import cosine, gram_matrix
from cl_lightning.model.module import ContinualLM
from tests.conftest import batch_of

LABELS = (40, 41, 42)
CUES = ((60, 61), (70, 71), (80, 81))


def stances(seed: int, shift: int, count: int = 24) -> list[Encoded]:
    """Prompts whose last two tokens are a cue; the answer is the cue's label, moved on by `shift`."""
    rng = torch.Generator().manual_seed(seed)
    examples = []
    for i in range(count):
        words = tuple(torch.randint(100, 250, (5,), generator=rng).tolist())
        answer = LABELS[(i + shift) % len(LABELS)]
        examples.append(Encoded(Example(f"t/{i}", "p", "a"), (*words, *CUES[i % len(CUES)]), (answer, 2), 0))
    return examples


def cosines(module: ContinualLM, old: Sequence[Encoded], new: Sequence[Encoded]) -> tuple[float, float]:
    """Over all matrices together, and the share of matrices in which it is negative."""
    gradients = [module.gradients([batch_of(list(examples))]) for examples in (old, new)]
    grams = [gram_matrix([g[name] for g in gradients]) for name in gradients[0]]
    negative = sum(cosine(gram, 0, 1) < 0 for gram in grams) / len(grams)
    return cosine(torch.stack(grams).sum(0), 0, 1), negative


@torch.no_grad()
def accuracy(module: ContinualLM, examples: Sequence[Encoded]) -> float:
    """Share of examples whose label is the most likely next token."""
    logits = module.llm(input_ids=torch.tensor([e.prompt_ids for e in examples])).logits[:, -1]
    wanted = torch.tensor([e.answer_ids[0] for e in examples])
    return float((logits.argmax(-1) == wanted).double().mean())


def test_flipped_labels_agree_at_the_base_and_conflict_once_the_first_task_is_learnt(
    tiny: Callable[..., ContinualLM],
) -> None:
    module = tiny(adapter=SeqLoRA(rank=8, alpha=16))
    old, again, flipped = stances(0, 0), stances(1, 0), stances(2, 1)
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    at_base, negative_at_base = cosines(module, old, flipped)
    assert at_base > 0.2, "both teach the format"
    assert negative_at_base == 0
    optimizer = torch.optim.AdamW(module.adapter.param_groups(), lr=1e-2)
    batch = batch_of(old)
    for _ in range(60):
        optimizer.zero_grad()
        (module.sample_nll(batch) * batch["sample_weight"]).sum().backward()
        optimizer.step()
    assert accuracy(module, again) == 1, "the first task is learnt"
    module.adapter.end_task(0)
    module.adapter.begin_task(1, torch.Generator().manual_seed(1))
    learnt, negative = cosines(module, again, flipped)
    assert learnt < -0.05
    assert negative > 0.5
