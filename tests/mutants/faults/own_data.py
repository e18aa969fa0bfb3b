"""Faults in conversations, streamed files and options of single tasks."""

from tests.mutants.faults.fault import Fault

FAULTS = (
    Fault(
        "earlier turns of the assistant carry no loss",
        "cl_lightning/data/prompt.py",
        "targets = self._targets(placed, tokens) if every else ()",
        "targets = ()",
        "tests/data/test_conversations.py",
    ),
    Fault(
        "a turn of the assistant is trained without its end",
        "cl_lightning/data/prompt.py",
        "end + 1 if tokens.ids[end] == self.end else last",
        "last",
        "tests/data/test_conversations.py",
    ),
    Fault(
        "the step's count leaves earlier turns out",
        "cl_lightning/data/task_sequence.py",
        "[e.labelled for e in examples]",
        "[len(e.answer_ids) for e in examples]",
        "tests/data/test_conversations.py",
    ),
    Fault(
        "gates of a trained turn read what comes after it",
        "cl_lightning/data/prompt.py",
        "placed.spans[placed.first if targets else -1][1]",
        "placed.spans[-1][1]",
        "tests/data/test_conversations.py",
    ),
    Fault(
        "a streamed file gives its first examples",
        "cl_lightning/data/streamed.py",
        "return [found[index] for index in indices]",
        "return [found[index] for index in sorted(indices)]",
        "tests/data/test_streamed.py",
    ),
    Fault(
        "a task's own system prompt is lost",
        "cl_lightning/data/prompt.py",
        "chat = self.chat if own is None else self._with_system(own, spec.name)",
        "chat = self.chat",
        "tests/data/test_per_task.py",
    ),
)
