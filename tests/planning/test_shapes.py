"""What a plan rests on: a model without data does what the model does, and bytes and products are counted right."""

from collections.abc import Iterator

import pytest
import torch

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.live_bytes import LiveBytes
from cl_lightning.data.base import Example, TaskSpec
from cl_lightning.data.longest import LongestEncoder
from cl_lightning.model.checkpoint import model_kind
from cl_lightning.model.in_batches import generates_in_batches
from cl_lightning.model.shapes import head_adds_nothing, reads_mask, without_data
from cl_lightning.model.try_out import head_is_plain
from cl_lightning.planning.products import Products
from tests.families import FAMILIES, make


@pytest.mark.parametrize("family", ["Llama", "GPT-2", "Gemma 2", "Granite"])
def test_the_head_is_found_plain_by_operations_where_it_is_by_values(family: str) -> None:
    llm = make(FAMILIES[family]())
    assert head_adds_nothing(llm) == head_is_plain(llm) == (family in ("Llama", "GPT-2"))


@pytest.mark.parametrize("family", ["RWKV", "Llama", "Mamba", "Mamba-2", "T5"])
def test_models_that_take_no_padding_are_found_by_operations_where_they_are_by_values(family: str) -> None:
    llm = make(FAMILIES[family]())
    assert reads_mask(llm) == generates_in_batches(family, llm, pad_id=0) == (family != "RWKV")
    with without_data(family):
        assert reads_mask(model_kind(llm.config).from_config(llm.config)) == (family != "RWKV")


def test_bytes_are_counted_once_per_storage_until_it_is_freed() -> None:
    with LiveBytes() as live:
        x = torch.zeros(100)
        view, y = x[:50], x + 1
        assert live.now == 800
        del x
        assert live.now == 800, "the view holds it"
        del view, y
        assert (live.now, live.peak) == (0, 800)
        live.reset()
        z = torch.zeros(10)
        assert (live.now, live.peak) == (40, 40)
        del z


def test_products_are_counted() -> None:
    with Products() as products:
        one, other = torch.ones(3, 4), torch.ones(4, 5)
        torch.mm(one, other, out=torch.empty(3, 5))
        assert products.take() == 2 * 3 * 4 * 5
        torch.zeros(3, 5).addmm_(one, other)
        assert products.take() == 2 * 3 * 4 * 5
        q = torch.ones(2, 1, 6, 8)
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
        assert products.take() == 2 * 2 * (2 * 6 * 6 * 8)


def test_code_that_reads_values_is_one_line() -> None:
    with pytest.raises(ConfigError, match="what a-model takes cannot be planned"), without_data("a-model"):
        torch.ones(3).tolist()


def test_masks_of_a_batch_are_true_at_the_labelled_places_and_flat_ones_everywhere() -> None:
    with without_data("a-model") as assumed:
        assumed.labelled = 7
        states, mask = torch.zeros(2, 10, 4), torch.zeros(2, 10) > 0
        assert states[mask].shape == (7, 4)
        assert states.flatten(0, 1)[mask.flatten()].shape == (20, 4)


def test_texts_without_a_tokenizer_are_as_long_as_the_options_allow() -> None:
    def examples() -> Iterator[Example]:
        yield Example("one/0", "prompt", "answer")

    encoder = LongestEncoder(30, {"one": 5, "two": 6})
    plain, own = TaskSpec("one", "accuracy", 4), TaskSpec("two", "accuracy", 4, max_prompt_tokens=9)
    assert [e.length for e in encoder.encode_all(examples(), plain)] == [35]
    assert encoder.encode(next(examples()), own).length == 15
