"""A Modelfile for Ollama, whose prompts are those of training."""

import copy

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cl_lightning.data.chat import DAY, ChatPrompt
from cl_lightning.data.end_tokens import end_tokens, trained_end
from cl_lightning.export.trained import Trained


class TrainedPrompt:
    """How prompts were written in training.

    Attributes:
        before, after: what stands around a prompt: the chat template's and the system message, nothing without one.
        end: the token that ends an answer.
        stops: the texts of all tokens that end one.
        bos: whether the tokenizer begins a prompt with its beginning-of-sequence token. Where a chat template writes
            that, it is a part of the text.
    """

    def __init__(self, trained: Trained, llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.before = self.after = ""
        if tokenizer.chat_template:
            template = trained.record["template"]
            day, variables = template.get("date") or DAY, template.get("template_args") or {}
            chat = ChatPrompt(copy.deepcopy(tokenizer), template.get("system_prompt"), day, variables)
            self.before, self.after = chat.before, chat.after
        self.end = trained_end(tokenizer)
        self.stops = [tokenizer.convert_ids_to_tokens(token) for token in end_tokens(llm, tokenizer)]
        first = tokenizer("a").input_ids[0]
        self.bos = (
            not tokenizer.chat_template and tokenizer.bos_token_id is not None and first == tokenizer.bos_token_id
        )


def modelfile(model: str, prompt: TrainedPrompt) -> bytes:
    """The Modelfile of `model`, a file beside it: each prompt as in training, the most likely answer."""
    lines = [
        f"FROM ./{model}",
        f'TEMPLATE """{_go(prompt.before)}{{{{ .Prompt }}}}{_go(prompt.after)}"""',
        "PARAMETER temperature 0",
        *(f'PARAMETER stop "{stop}"' for stop in prompt.stops),
    ]
    return ("\n".join(lines) + "\n").encode()


def _go(text: str) -> str:
    """Text in a template of Go that stands between three quotes."""
    return text.replace("{{", '{{ "{{" }}').replace('"""', '""{{ "\\"" }}')
