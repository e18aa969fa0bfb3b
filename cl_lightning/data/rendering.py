"""Renders many conversations with a chat template: each text is that of transformers, at a third of its time.

The compiled template is transformers' own and gets the same variables. What is spared is what transformers does around
it for every conversation: copying messages and gathering the variables that all of them share. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cl_lightning.data.chat import Message, failed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render_all(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]]) -> list[str]:
    """Render conversations up to the beginning of the assistant's turn.

    The first one with each sequence of roles is rendered by the tokenizer too. A tokenizer that writes another text has
    a way of its own, and renders them all.

    Raises:
        ConfigError: the template fails; it is not said for which of them.
    """
    given = [list(conversation) for conversation in conversations]
    firsts = {tuple(m["role"] for m in conversation): i for i, conversation in reversed([*enumerate(given)])}
    try:
        texts = _rendered(tokenizer, given)
        as_it_does = _by_itself(tokenizer, [given[i] for i in firsts.values()])
        return texts if as_it_does == [texts[i] for i in firsts.values()] else _by_itself(tokenizer, given)
    except Exception as error:
        raise failed(tokenizer, error) from error


def _by_itself(tokenizer: PreTrainedTokenizerBase, conversations: list[list[Message]]) -> list[str]:
    return tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=True)


def _rendered(tokenizer: PreTrainedTokenizerBase, conversations: list[list[Message]]) -> list[str]:
    from transformers.utils.chat_template_utils import _compile_jinja_template

    template = _compile_jinja_template(tokenizer.get_chat_template())
    shared = {"tools": None, "documents": None, "add_generation_prompt": True}
    shared = {**template.globals, **tokenizer.special_tokens_map, **shared}
    texts = []
    for messages in conversations:
        # A context of its own for each, as it keeps what the template sets.
        context = template.new_context({**shared, "messages": messages}, shared=True)
        texts.append(template.environment.concat(template.root_render_func(context)))
    return texts
