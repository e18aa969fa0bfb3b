"""Stands in for a model's tokenizer: every text takes as many tokens as the options allow."""

from collections.abc import Iterable, Iterator

from cl_lightning.data.base import Example, TaskSpec
from cl_lightning.data.prompt import Encoded


class LongestEncoder:
    """Encodes examples as `data.prompt.PromptEncoder` does, in length alone: the ids are all 0.

    Args:
        prompt: tokens of a prompt; a task may have its own limit.
        answer: tokens of an answer, by task.
    """

    #: There is no chat template.
    chat = None

    def __init__(self, prompt: int, answer: dict[str, int]) -> None:
        self._prompt = prompt
        self._answers = {name: (0,) * count for name, count in answer.items()}

    def encode(self, example: Example, spec: TaskSpec) -> Encoded:
        """Encode one example."""
        return next(self.encode_all([example], spec))

    def encode_all(self, examples: Iterable[Example], spec: TaskSpec) -> Iterator[Encoded]:
        """Encode examples of a task."""
        prompt = (0,) * (spec.max_prompt_tokens or self._prompt)
        for example in examples:
            yield Encoded(example, prompt, self._answers[spec.name], 0)

    def answer(self, text: str) -> tuple[int, ...]:
        """Encode a label, in one token."""
        return (0,)
