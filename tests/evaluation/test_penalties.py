"""A model's own generation settings in batches: rows of several lengths with different ends and a shared prefix.

Each answer is the one that transformers gives the prompt alone.
"""

from collections.abc import Callable
from typing import Any

import pytest

from cl_lightning.common.errors import ConfigError
from cl_lightning.data.end_tokens import before_end
from cl_lightning.evaluation import decode as decoding
from cl_lightning.evaluation.generate import continuations, generate
from cl_lightning.model.module import ContinualLM
from tests.evaluation.test_generate import BUDGET, plain_ids, prompts_with, with_stack

#: Settings whose state is a row's own, or that count what stands before the answer.
SETTINGS: dict[str, Any] = {
    "repetition_penalty": 1.3,
    "encoder_repetition_penalty": 1.2,
    "encoder_no_repeat_ngram_size": 1,
    "no_repeat_ngram_size": 2,
    "guidance_scale": 1.5,
    "min_length": 12,
    "exponential_decay_length_penalty": (3, 1.2),
}


def ending_apart(module: ContinualLM, prompts: list[tuple[int, ...]], name: str) -> list[list[int]]:
    """Compute the answers of single prompts, with an end token that they reach at different steps."""
    llm, tokenizer = module.llm, module.tokenizer
    tokenizer.chat_template = None  # its end token would count as well
    needs_end = name in ("min_length", "exponential_decay_length_penalty")
    if not needs_end:
        setattr(llm.generation_config, name, SETTINGS[name])  # the end token cuts these answers and changes nothing
    llm.generation_config.eos_token_id = None
    free = plain_ids(module, prompts)

    def steps(token: int) -> int:
        return len({row.index(token) if token in row else BUDGET for row in free})

    end = max({token for row in free for token in row}, key=steps)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    llm.generation_config.eos_token_id = end
    setattr(llm.generation_config, name, SETTINGS[name])
    return [before_end(row, {end}) for row in (plain_ids(module, prompts) if needs_end else free)]


#: Without a shared prefix, settings go the same way: one of each kind of state.
WITHOUT_PREFIX = ("encoder_repetition_penalty", "guidance_scale")


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        *((name, 15) for name in SETTINGS),
        *(pytest.param(n, 0, marks=[] if n in WITHOUT_PREFIX else pytest.mark.long) for n in SETTINGS),
    ],
)
def test_batches_give_the_same_answers_as_single_prompts(
    tiny: Callable[..., ContinualLM], name: str, prefix: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "ENDED", 1 / 8)
    module, prompts = with_stack(tiny), prompts_with(prefix, 8)
    assert len({len(p) for p in prompts}) < len(prompts), "some are of one length"
    wanted = ending_apart(module, prompts, name)
    assert len({len(row) for row in wanted}) > 1, "rows end apart"
    made = continuations(module.llm, module.tokenizer, prompts, BUDGET, 8)
    end = module.llm.generation_config.eos_token_id
    assert [before_end(row, {end}) for row in made] == wanted


def test_per_sample_arguments_need_the_spans_of_own_tokens(tiny: Callable[..., ContinualLM]) -> None:
    module, asked = tiny(), []
    call = (module.llm, module.tokenizer, prompts_with(0, 2), 2, 2)
    for make in (generate, continuations):
        with pytest.raises(ConfigError, match=r"extra=.* needs own=.*Encoded.own") as caught:
            make(*call, extra=lambda batch: asked.append(batch) or {})
        assert "\n" not in str(caught.value) and not asked
    generate(*call, own=[None, (1, 2)], extra=lambda batch: asked.append(batch["own_mask"].sum(1).tolist()) or {})
    assert sorted(asked[0])[0] == 1
