"""Writes a Modelfile for Ollama, with prompts as in training."""

import copy

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cl_lightning.data.chat import DAY, ChatPrompt
from cl_lightning.data.end_tokens import end_tokens, trained_end
from cl_lightning.export.trained import Trained


class TrainedPrompt:
    """The text and tokens around a prompt in training.

    Attributes:
        before, after: text that the chat template writes around a prompt, with the system message; empty without one.
        end: id of the token that ends an answer in training.
        stops: texts of all tokens that end an answer.
        bos: True if the tokenizer adds its beginning-of-sequence token. A chat template that has it writes it as text.
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
    """Return the Modelfile for `model`, a file in the same folder, with greedy decoding."""
    lines = [
        f"FROM ./{model}",
        f'TEMPLATE """{_go(prompt.before)}{{{{ .Prompt }}}}{_go(prompt.after)}"""',
        "PARAMETER temperature 0",
        *(f'PARAMETER stop "{stop}"' for stop in prompt.stops),
    ]
    return ("\n".join(lines) + "\n").encode()


def _go(text: str) -> str:
    """Escape text for a Go template between triple quotes."""
    return text.replace("{{", '{{ "{{" }}').replace('"""', '""{{ "\\"" }}')
