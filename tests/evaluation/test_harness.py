"""The lm-eval wrapper: gates read the context only; likelihoods and strings equal lm-eval's own model class."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra 'general')")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from cl_lightning.adapters.gainlora import GainLoRA
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.data.collate import prompt_batch
from cl_lightning.evaluation.general.harness import HarnessLM
from cl_lightning.model.module import ContinualLM

PAIRS = [
    ("the cat sat on", " the mat"),
    ("the cat sat on", " a dog and then another dog"),
    ("a much longer context about numbers, 1 2 3, and what follows them", " 4"),
    ("a much longer context about numbers, 1 2 3, and what follows them", " 5"),
    ("trailing blanks  ", "word"),
    ("", "no context at all"),
]
BUDGET = 10


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, args, i, metadata=("task", i, 1)) for i, args in enumerate(arguments)]


def moved(module: ContinualLM) -> ContinualLM:
    """A model with two tasks' branches (and gates), changed from their initial values."""
    rng = torch.Generator().manual_seed(0)
    for task in range(2):
        module.adapter.begin_task(task, rng)
        for layer in module.adapter.layers.values():
            layer.lora_B.data.normal_(0, 0.3, generator=rng)
        for weight in module.adapter.gates.new if hasattr(module.adapter, "gates") else ():
            weight.data.normal_(0, 0.5, generator=rng)
        if task == 0:
            module.adapter.end_task(task)
    module.llm.eval()
    return module


def harness(module: ContinualLM, batch_size: int = 4) -> HarnessLM:
    extra = module.adapter.forward_kwargs if module.adapter.per_sample else None
    return HarnessLM(module.llm, module.tokenizer, module.answer_logits, batch_size, extra)


def watched(module: ContinualLM) -> list[torch.Tensor]:
    """Record the gates of every forward pass from now on."""
    seen: list[torch.Tensor] = []
    first = next(part for part in module.llm.modules() if isinstance(part, AdaptedLinear))
    first.register_forward_pre_hook(lambda linear, _: seen.append(linear.gates))
    return seen


def alone(module: ContinualLM, text: str) -> torch.Tensor:
    """Compute the gates of one context, alone and without a continuation."""
    ids = module.tokenizer.encode(text)
    return module.adapter.forward_kwargs(prompt_batch([ids], module.tokenizer.pad_token_id, True, [None]))["gates"]


@pytest.fixture
def gated(tiny: Callable[..., ContinualLM]) -> ContinualLM:
    return moved(tiny("float64", GainLoRA(IncLoRA(rank=4, alpha=8), width=16)))


@torch.no_grad()
def test_gates_of_a_likelihood_depend_on_its_context_only(gated: ContinualLM) -> None:
    lm, seen = harness(gated, batch_size=1), watched(gated)
    context = PAIRS[2][0]
    for continuation in (" 4", " something else altogether", " 4 5 6 7 8 9 10 11 12"):
        lm.loglikelihood(requests("loglikelihood", [(context, continuation)]))
    wanted = alone(gated, context)
    assert wanted.shape == (1, 2)
    assert len(seen) == 3
    for gates in seen:
        torch.testing.assert_close(gates, wanted, rtol=1e-12, atol=1e-14)
    whole = alone(gated, context + " something else altogether")
    assert (whole - wanted).abs().max() > 1e-3, "negative control: pooled over the continuation too"


@torch.no_grad()
def test_gates_do_not_depend_on_batch_mates(gated: ContinualLM) -> None:
    pairs = PAIRS[:5]
    together = harness(gated).loglikelihood(requests("loglikelihood", pairs))
    single = [harness(gated, 1).loglikelihood(requests("loglikelihood", [pair]))[0] for pair in pairs]
    assert [g for _, g in together] == [g for _, g in single]
    torch.testing.assert_close(torch.tensor(together)[:, 0], torch.tensor(single)[:, 0], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_gates_of_a_generation_depend_on_its_prompt_only(gated: ContinualLM) -> None:
    lm, seen = harness(gated, batch_size=1), watched(gated)
    lm.generate_until(requests("generate_until", [(PAIRS[2][0], {"until": ["\n"], "max_gen_toks": 4})]))
    assert len(seen) > 1
    assert all(torch.equal(gates, alone(gated, PAIRS[2][0])) for gates in seen)


@torch.no_grad()
def test_a_chat_template_does_not_change_gates(gated: ContinualLM) -> None:
    gated.tokenizer.chat_template = (
        "{% for m in messages %}<start>{{ m.role }}: {{ m.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<start>assistant:{% endif %}"
    )
    lm, seen, text = harness(gated, batch_size=1), watched(gated), "count to three and say them all"
    context = lm.apply_chat_template([{"role": "user", "content": text}])
    assert context != text
    lm.loglikelihood(requests("loglikelihood", [(context, " 1 2 3")]))
    ids = gated.tokenizer.encode(context)
    start, end = lm._own(context, 0)
    inside = gated.tokenizer.decode(ids[start:end]).strip()
    assert inside.replace(" ", "") == text.replace(" ", "")
    batch = prompt_batch([ids], gated.tokenizer.pad_token_id, True, [(start, end)])
    torch.testing.assert_close(seen[0], gated.adapter.forward_kwargs(batch)["gates"], rtol=1e-12, atol=1e-14)
    assert (seen[0] - alone(gated, context)).abs().max() > 1e-4, "negative control: the template pooled too"


@pytest.fixture
def both(tiny: Callable[..., ContinualLM]) -> tuple[HarnessLM, HFLM]:
    """Our wrapper and lm-eval's, of the same model with a branch."""
    module = moved(tiny("float32", SeqLoRA(rank=4, alpha=8)))
    theirs = HFLM(pretrained=module.llm, tokenizer=module.tokenizer, batch_size=1, device="cpu")
    return harness(module), theirs


@torch.no_grad()
def test_likelihoods_equal_lm_evals_own_class(both: tuple[HarnessLM, HFLM]) -> None:
    ours, theirs = (lm.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True) for lm in both)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    torch.testing.assert_close(torch.tensor(ours)[:, 0], torch.tensor(theirs)[:, 0], rtol=1e-5, atol=1e-4)
    assert len({round(value, 3) for value, _ in ours}) == len(PAIRS)


@torch.no_grad()
def test_the_models_own_continuation_is_greedy(both: tuple[HarnessLM, HFLM]) -> None:
    lm = both[0]
    context = PAIRS[2][0]
    said = lm.llm.generate(torch.tensor([lm.tok_encode(context)]), max_new_tokens=3, do_sample=False)
    ids = said[0, len(lm.tok_encode(context)) :].tolist()
    wrong = [*ids[:2], (ids[2] + 1) % 100]
    answers = lm._loglikelihood_tokens([(None, lm.tok_encode(context), row) for row in (ids, wrong)])
    assert [greedy for _, greedy in answers] == [True, False]


@torch.no_grad()
def test_rolling_likelihoods_equal(both: tuple[HarnessLM, HFLM]) -> None:
    texts = [("some text of a few words",), ("x",), ("many words " * 40,)]
    for lm in both:
        if isinstance(lm, HarnessLM):
            lm.max_length = 32
        else:
            lm._max_length = 32
    ours, theirs = (lm.loglikelihood_rolling(requests("loglikelihood_rolling", texts), True) for lm in both)
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-5, atol=1e-3)


@torch.no_grad()
def test_generations_equal(both: tuple[HarnessLM, HFLM]) -> None:
    contexts = [pair[0] for pair in PAIRS[:5:2]]
    plain = [(c, {"until": [], "max_gen_toks": BUDGET, "do_sample": False}) for c in contexts]
    free, theirs = (lm.generate_until(requests("generate_until", plain), True) for lm in both)
    assert free == theirs
    assert len(set(free)) > 1
    middle = free[0][len(free[0]) // 2 :][:2]
    stopping = [(c, {"until": [middle, "zzzz"], "max_gen_toks": BUDGET, "do_sample": False}) for c in contexts]
    stopped, theirs = (lm.generate_until(requests("generate_until", stopping), True) for lm in both)
    assert stopped == theirs
    assert stopped[0] == free[0].split(middle)[0] != free[0]


@torch.no_grad()
def test_generations_end_at_the_chat_templates_end_token(both: tuple[HarnessLM, HFLM]) -> None:
    lm, asked = both[0], requests("generate_until", [(PAIRS[0][0], {"until": [], "max_gen_toks": BUDGET})])
    free = lm.generate_until(asked)[0]
    end = next(char for char in free[1:] if char.isascii() and char.isalnum() and char not in PAIRS[0][0])
    lm.tokenizer.add_tokens([end])  # no special one: decoding would not skip it
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}" + end + "{% endfor %}"
    assert lm.generate_until(asked)[0] == free.split(end)[0] != free


@torch.no_grad()
def test_long_contexts_lose_their_beginning(both: tuple[HarnessLM, HFLM]) -> None:
    ours, theirs = both
    ours.max_length = theirs._max_length = 12
    pairs = [("one two three four five six seven eight nine ten", " eleven"), ("short", " one")]
    mine, wanted = (lm.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True) for lm in both)
    torch.testing.assert_close(torch.tensor(mine)[:, 0], torch.tensor(wanted)[:, 0], rtol=1e-5, atol=1e-4)


def test_sampling_is_refused(both: tuple[HarnessLM, HFLM]) -> None:
    sampled = requests("generate_until", [("a", {"until": [], "do_sample": True, "temperature": 1.0})])
    with pytest.raises(ConfigError, match="samples; only greedy"):
        both[0].generate_until(sampled)
