"""A task of random text, every prompt of the same number of tokens."""

import json
import random
import string
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import tasks

from cl_lightning.data.benchmarks.user_tasks import UserTask, UserTasks
from cl_lightning.data.task_sequence import TaskSequence


def words(tokenizer: Any, count: int, prompt_tokens: int, answer_tokens: int, batch: int) -> TaskSequence:
    """Make `count` training examples and as many test prompts, cut to `prompt_tokens` by the package itself."""
    rng = random.Random(0)

    def text(length: int) -> str:
        return "".join(rng.choices(string.ascii_lowercase, k=length))

    # At least as many bytes as tokens; a letter is never more than one token.
    rows = [{"text": text(8 * prompt_tokens), "answer": text(answer_tokens - 1)} for _ in range(2 * count)]
    with TemporaryDirectory() as folder:
        for name, part in (("train", rows[:count]), ("test", rows[count:])):
            lines = "".join(json.dumps(row) + "\n" for row in part)
            Path(folder, f"{name}.jsonl").write_text(lines, encoding="utf-8")
        task = UserTask(
            name="words", prompt="{text}", answer="answer", metric="accuracy", train="train.jsonl", test="test.jsonl"
        )
        return tasks(
            Namespace(data=folder), ["words"], tokenizer, benchmark=UserTasks([task]), validation_samples=0,
            batch_size=batch, max_prompt_tokens=prompt_tokens, max_answer_tokens=2 * answer_tokens,
        )  # fmt: skip
