"""Our generation against transformers', prompt by prompt: shared prefix, padding, early ends, adapters."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.data.end_tokens import before_end
from cl_lightning.evaluation import decode as decoding
from cl_lightning.evaluation import generate as generation
from cl_lightning.evaluation.generate import generate
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.prefix_cache import LEAST, common_prefix
from tests.conftest import random_examples

BUDGET = 12


def prompts_with(prefix: int, count: int = 9) -> list[tuple[int, ...]]:
    """Make prompts of different lengths that begin with the same `prefix` tokens."""
    head = tuple(range(20, 20 + prefix))
    return [(*head, *e.prompt_ids) for e in random_examples(count, seed=3)]


def with_stack(tiny: Callable[..., ContinualLM]) -> ContinualLM:
    """Make a model with a folded task and a changed branch."""
    module = tiny("float32", SeqLoRA(rank=4, alpha=8, fold_into="stack"))
    rng = torch.Generator().manual_seed(0)
    for task in range(2):
        module.adapter.begin_task(task, rng)
        for layer in module.adapter.layers.values():
            layer.lora_B.data.normal_(0, 0.05, generator=rng)
        if task == 0:
            module.adapter.end_task(task)
    assert next(iter(module.adapter.layers.values())).stack_A is not None
    return module


def plain_ids(module: ContinualLM, prompts: list[tuple[int, ...]]) -> list[list[int]]:
    """transformers' generate, one prompt at a time: no padding, no sharing."""
    rows = []
    with torch.no_grad():
        for p in prompts:
            ids = torch.tensor([p])
            options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": BUDGET, "do_sample": False}
            rows.append(module.llm.generate(input_ids=ids, **options)[0, len(p) :].tolist())
    return rows


def texts(module: ContinualLM, answers: list[list[int]]) -> list[str]:
    rows = [before_end(row, {module.llm.generation_config.eos_token_id}) for row in answers]
    return [module.tokenizer.decode(row, skip_special_tokens=True).removeprefix(" ") for row in rows]


def plain(module: ContinualLM, prompts: list[tuple[int, ...]]) -> list[str]:
    return texts(module, plain_ids(module, prompts))


@pytest.fixture(scope="module")
def answers(tiny: Callable[..., ContinualLM]) -> Callable[[int], list[str]]:
    """transformers' answers to the prompts with a prefix, computed once."""
    return cache(lambda prefix: plain(with_stack(tiny), prompts_with(prefix)))


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("prefix", [0, 1, 15])
def test_strings_equal_transformers(
    tiny: Callable[..., ContinualLM], answers: Callable[[int], list[str]], prefix: int, batch_size: int
) -> None:
    module, prompts = with_stack(tiny), prompts_with(prefix)
    assert (common_prefix(prompts) == prefix) == (prefix != 1)  # one token is not worth it
    wanted = answers(prefix)
    assert len(set(wanted)) > 3
    assert generate(module.llm, module.tokenizer, prompts, BUDGET, batch_size) == wanted


def test_equal_prompts_and_a_single_prompt(tiny: Callable[..., ContinualLM]) -> None:
    module, prompts = with_stack(tiny), prompts_with(15, 1) * 5
    assert common_prefix(prompts) == len(prompts[0]) - 1  # never a whole prompt
    (alone,) = plain(module, prompts[:1])
    assert generate(module.llm, module.tokenizer, prompts, BUDGET, 4) == [alone] * 5
    assert generate(module.llm, module.tokenizer, prompts[:1], BUDGET, 4) == [alone]
    assert generate(module.llm, module.tokenizer, [], BUDGET, 4) == []


@pytest.mark.parametrize("prefix", [0, 15])
def test_rows_that_end_early(tiny: Callable[..., ContinualLM], prefix: int) -> None:
    module, prompts = with_stack(tiny), prompts_with(prefix)
    ids = plain_ids(module, prompts)
    end = max({i for row in ids for i in row}, key=lambda i: sum(i in row[1:8] for row in ids))
    module.tokenizer.eos_token = module.tokenizer.convert_ids_to_tokens(end)
    module.tokenizer.chat_template = None  # its end token would count as well
    module.llm.generation_config.eos_token_id = end
    rows = plain_ids(module, prompts)
    assert len({len(row) for row in rows}) > 1
    assert generate(module.llm, module.tokenizer, prompts, BUDGET, 4) == texts(module, rows)


@pytest.mark.parametrize("piece", [1, 20, 10_000])
def test_prompts_may_be_read_in_pieces_of_any_size(
    tiny: Callable[..., ContinualLM],
    answers: Callable[[int], list[str]],
    piece: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "PIECE", piece)
    module, prompts = with_stack(tiny), prompts_with(15)
    read = []
    forward = module.llm.forward
    module.llm.forward = lambda **inputs: read.append(tuple(inputs["input_ids"].shape)) or forward(**inputs)
    made = generate(module.llm, module.tokenizer, prompts, BUDGET, 9)
    pieces = [rows for rows, width in read if width > 1]
    assert len(pieces) == {1: 9, 20: 5, 10_000: 1}[piece], read
    assert made == answers(15)


def test_rows_that_have_ended_are_dropped(tiny: Callable[..., ContinualLM], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "ENDED", 1 / 9)
    module, prompts = with_stack(tiny), prompts_with(0)
    ids = plain_ids(module, prompts)
    end = max({i for row in ids for i in row}, key=lambda i: sum(i in row[1:8] for row in ids))
    module.tokenizer.eos_token = module.tokenizer.convert_ids_to_tokens(end)
    module.tokenizer.chat_template = None  # its end token would count as well
    module.llm.generation_config.eos_token_id = end
    alone = plain_ids(module, prompts)
    lengths = [len(row) for row in alone]
    rows: list[int] = []
    module.llm.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    made = generate(module.llm, module.tokenizer, prompts, BUDGET, 9)
    still = [sum(length > step for length in lengths) for step in range(1, max(lengths))]
    assert still[-1] < 9
    assert rows[-len(still) :] == still, "each step carries those that have not ended, and only them"
    assert made == texts(module, alone)


def test_penalties_of_the_model_are_applied(tiny: Callable[..., ContinualLM]) -> None:
    module, prompts = with_stack(tiny), prompts_with(15)
    free = generate(module.llm, module.tokenizer, prompts, BUDGET, 4)
    module.llm.generation_config.repetition_penalty = 5.0
    module.llm.generation_config.no_repeat_ngram_size = 2
    wanted = plain(module, prompts)
    assert generate(module.llm, module.tokenizer, prompts, BUDGET, 4) == wanted != free


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored_even_after_an_error(
    tiny: Callable[..., ContinualLM], training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, prompts = with_stack(tiny), prompts_with(15)
    module.llm.train(training)
    generate(module.llm, module.tokenizer, prompts, 2, 4)
    assert module.llm.training == training

    def fails(**_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(module.llm, "generate", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(module.llm, module.tokenizer, prompts, 2, 4)
    assert module.llm.training == training


def test_another_prefix_or_wrong_positions_would_change_the_strings(
    tiny: Callable[..., ContinualLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, prompts = with_stack(tiny), prompts_with(15)
    wanted = generate(module.llm, module.tokenizer, prompts, BUDGET, 4)
    right = generation.prefix_cache
    monkeypatch.setattr(generation, "prefix_cache", lambda llm, ids: right(llm, ids + 1))
    assert generate(module.llm, module.tokenizer, prompts, BUDGET, 4) != wanted
    monkeypatch.setattr(generation, "prefix_cache", right)
    forward = module.llm.forward

    def by_column(**inputs: torch.Tensor) -> object:
        """Count padding as positions."""
        past, width = inputs["past_key_values"].get_seq_length(), inputs["input_ids"].shape[1]
        return forward(**{**inputs, "position_ids": torch.arange(past, past + width)[None]})

    module.llm.forward = by_column
    assert generate(module.llm, module.tokenizer, prompts, BUDGET, 4) != wanted


def test_encoder_decoders_use_transformers_loop(tiny: Callable[..., ContinualLM]) -> None:
    tokenizer = tiny("float32").tokenizer
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4}
    special = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    llm = T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes, **special)).eval()
    prompts = prompts_with(15)
    with torch.no_grad():
        out = [llm.generate(torch.tensor([p]), max_new_tokens=BUDGET, do_sample=False)[0] for p in prompts]
    wanted = [tokenizer.decode(o, skip_special_tokens=True).removeprefix(" ") for o in out]
    assert generate(llm, tokenizer, prompts, BUDGET, 4) == wanted


def test_small_savings_are_not_used() -> None:
    head = tuple(range(LEAST // 2))
    assert common_prefix([(*head, 1), (*head, 2)]) == 0
    assert common_prefix([(*head, 1), (*head, 2, 3), (*head, 3)]) == len(head)
