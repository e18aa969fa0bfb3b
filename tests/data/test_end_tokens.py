"""What ends an answer: the chat template's own token in training and generation, and all others that end one."""

from collections.abc import Callable

import pytest
import torch
from tokenizers import AddedToken
from transformers import PreTrainedModel, PreTrainedTokenizerBase, T5Config, T5ForConditionalGeneration

from cl_lightning.data.base import Example, TaskSpec
from cl_lightning.data.end_tokens import before_end, end_tokens, trained_end
from cl_lightning.data.prompt import PromptEncoder
from cl_lightning.evaluation.generate import generate
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.random_llama import random_model, random_tokenizer
from tests.evaluation.test_generate import prompts_with

BUDGET, EOS = 24, 2
TEMPLATE = (
    "{{% for m in messages %}}<|start|>{{{{ m['role'] }}}}\n{{{{ m['content'] }}}}{end}{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|start|>assistant\n{{% endif %}}"
)


def tokenizer_with(end: str, added: str | None = "<|turn|>", special: bool = True) -> PreTrainedTokenizerBase:
    """The random model's tokenizer with a further token, turns ending as `end`."""
    tokenizer = random_tokenizer()
    if added is not None:
        tokenizer.add_tokens([AddedToken(added, special=special, normalized=False)], special_tokens=special)
    tokenizer.chat_template = TEMPLATE.format(end=end)
    return tokenizer


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("end", ["<|turn|>", "<|turn|>\n", " <|turn|>", "\n<|turn|><|end|>"])
def test_the_templates_own_end_is_trained(end: str, special: bool) -> None:
    tokenizer = tokenizer_with(end, special=special)
    encoder = PromptEncoder(tokenizer, 500, None)
    encoded = encoder.encode(Example("1", "Which?", "B"), TaskSpec("t", "accuracy", 4))
    assert tokenizer.convert_ids_to_tokens(list(encoded.answer_ids)) == ["B", "<|turn|>"]
    assert encoder.answer("B") == encoded.answer_ids, "labels that likelihoods choose among"


@pytest.mark.parametrize("end", ["", "\n", "###", "\nUser:", "<|end|>"])
def test_without_one_of_its_own_it_is_the_tokenizers(end: str) -> None:
    assert trained_end(tokenizer_with(end)) == EOS
    tokenizer = tokenizer_with(end)
    tokenizer.chat_template = None
    assert trained_end(tokenizer) == EOS


def test_the_longer_of_two_added_tokens() -> None:
    tokenizer = tokenizer_with("<|turn|>user", added="<|turn|>user")
    tokenizer.add_tokens(["<|turn|>"])
    assert tokenizer.convert_ids_to_tokens(trained_end(tokenizer)) == "<|turn|>user"


def test_the_embedded_model_ends_as_it_did() -> None:
    tokenizer = Backbone("smollm2-135m-instruct").load_tokenizer()
    assert tokenizer.convert_ids_to_tokens(trained_end(tokenizer)) == tokenizer.eos_token == "<|im_end|>"


@pytest.mark.parametrize(("named", "all_ends"), [(None, [EOS, 7]), (5, [EOS, 5, 7]), ([9, 5, EOS], [EOS, 5, 7, 9])])
def test_all_ends(named: int | list[int] | None, all_ends: list[int]) -> None:
    llm, tokenizer = random_model(300, {}), random_tokenizer()
    seven = tokenizer.convert_ids_to_tokens(7)
    tokenizer.add_tokens([seven])
    tokenizer.chat_template = TEMPLATE.format(end=seven)
    llm.generation_config.eos_token_id = named
    assert end_tokens(llm, tokenizer) == all_ends


def test_what_follows_the_first_end_is_left_out() -> None:
    assert before_end([4, 5, 9, 4, 8], {8, 9}) == [4, 5]
    assert before_end([9, 4], {8, 9}) == []
    assert before_end([4, 5], {8, 9}) == [4, 5]


# ---- generation ----------------------------------------------------------------------------------------------


def llama(vocabulary: int) -> PreTrainedModel:
    return random_model(vocabulary, {})


def t5(vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(1)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4, "initializer_factor": 4.0}
    special = {"pad_token_id": 0, "eos_token_id": EOS, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(vocab_size=vocabulary, **sizes, **special)).eval()


@torch.no_grad()
def running_on(llm: PreTrainedModel, prompts: list[tuple[int, ...]]) -> list[list[int]]:
    """What transformers makes of each prompt alone when nothing but the tokenizer's end token ends it."""
    rows = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": BUDGET, "do_sample": False}
        out = llm.generate(input_ids=ids, eos_token_id=EOS, **options)[0].tolist()
        rows.append(out[1 if llm.config.is_encoder_decoder else len(prompt) :])
    return rows


def often(rows: list[list[int]]) -> int:
    """The token that most rows say after some others, and before their last."""
    return max({i for row in rows for i in row} - {0, 1, EOS}, key=lambda i: sum(i in row[2:-2] for row in rows))


@pytest.mark.parametrize("make", [llama, t5])
@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("written_by", ["by the template", "by the model's settings"])
def test_generation_stops_at_it(make: Callable[[int], PreTrainedModel], special: bool, written_by: str) -> None:
    tokenizer, prompts = random_tokenizer(), prompts_with(15)
    llm = make(len(tokenizer))
    rows = running_on(llm, prompts)
    end = often(rows)
    tokenizer.chat_template = None
    assert generate(llm, tokenizer, prompts, BUDGET, 4) == [text(tokenizer, row, {EOS}) for row in rows], "control"
    name = tokenizer.convert_ids_to_tokens(end)
    tokenizer.add_tokens([AddedToken(name, special=special, normalized=False)], special_tokens=special)
    if written_by == "by the template":
        tokenizer.chat_template = TEMPLATE.format(end=name)
    else:
        llm.generation_config.eos_token_id = [EOS, end]
    wanted = [text(tokenizer, row, {EOS, end}) for row in rows]
    shorter = [len(before_end(row, {end})) < len(before_end(row, {EOS})) for row in rows]
    assert sum(shorter) > 2 and wanted != [text(tokenizer, row, {EOS}) for row in rows]
    steps: list[int] = []
    llm.register_forward_hook(lambda *_: steps.append(1))
    assert generate(llm, tokenizer, prompts, BUDGET, 4) == wanted
    steps.clear()
    first = shorter.index(True)
    generate(llm, tokenizer, [prompts[first]], BUDGET, 1)
    assert len(steps) == len(before_end(rows[first], {end})) + 1, "it stops there, and does not only cut there"


def text(tokenizer: PreTrainedTokenizerBase, row: list[int], ends: set[int]) -> str:
    return tokenizer.decode(before_end(row, ends), skip_special_tokens=True).removeprefix(" ")
