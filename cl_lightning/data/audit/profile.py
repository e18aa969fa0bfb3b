"""Statistics of a task's data, computed before training. Imports no torch."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil

from cl_lightning.data.audit.measured import Measure, measured
from cl_lightning.data.base import Example, Splits, TaskSpec
from cl_lightning.data.budget import Budget
from cl_lightning.data.cleaning import fingerprint
from cl_lightning.data.prompt_parts import LEAST_CONTEXT
from cl_lightning.data.writable import SAMPLE, Lost

#: Finds what cannot be written of texts.
Find = Callable[[Sequence[str]], Lost | None]

#: Metrics that read only the beginning of an answer, so that a budget cuts off just its rationale.
READ_THE_OPENING = ("first_letter",)

#: Limits of a label set: number of distinct answers, words of each, and least uses of each on average.
MOST_LABELS, MOST_LABEL_WORDS, LEAST_USES = 20, 4, 5
#: From this share of one answer on, always giving it scores nearly as much as solving the task.
MOST_OF_ONE = 0.95


@dataclass(frozen=True)
class Limits:
    """Limits of a run.

    Attributes:
        prompt, answer: `data.max_prompt_tokens` and `data.max_answer_tokens`.
        generated: `data.max_new_tokens`.
        template: tokens that the chat template takes of every prompt.
        end: tokens that the end token takes of every answer.
        lost: what the tokenizer cannot write of some texts.
    """

    prompt: int = 256
    answer: int = 256
    generated: Budget = None
    template: int = 0
    end: int = 0
    lost: Find = lambda texts: None


@dataclass(frozen=True)
class Profile:
    """One task's data.

    Attributes:
        train, dev, test: numbers of examples. The benchmark has already removed `blank` training examples without an
            answer and `dropped` ones whose prompt is in test.
        repeated: training prompts that repeat an earlier one.
        contradicted: distinct training prompts that occur with two or more different answers.
        leaked: distinct test prompts that are also in train; `leaked_examples`: test examples with such a prompt.
        dev_in_test: dev prompts that are also in test.
        labels: answer -> share of train, if the answers are a closed set; else empty.
        prompts, answers: lengths in train: median, 95th percentile, longest.
        cut_prompts: training prompts over the limit, which are truncated.
        no_room: training and test prompts whose template, instruction and cue alone exceed the limit.
        long_answers: training answers over the limit.
        over_budget: test answers longer than the task's generation budget.
        budget: the task's generation budget.
        opening_scored: whether the metric reads only the beginning of an answer, so that a short budget does no harm.
        expected: numbers of examples in the published train and test files, None if not known.
        unlearnt: test examples with no answer that occurs in train, if train has few distinct answers.
        commonest: share of the commonest training answer, if there are few distinct answers; else 0.
        lost: what the tokenizer cannot write of the texts, in words.
        source: origin and licence of the data, including the licence stated in its file.
    """

    train: int
    dev: int
    test: int
    blank: int
    repeated: int
    leaked: int
    leaked_examples: int
    dev_in_test: int
    labels: dict[str, float] = field(default_factory=dict)
    prompts: tuple[int, int, int] = (0, 0, 0)
    answers: tuple[int, int, int] = (0, 0, 0)
    cut_prompts: int = 0
    no_room: int = 0
    long_answers: int = 0
    over_budget: int = 0
    budget: int = 0
    opening_scored: bool = False
    expected: tuple[int | None, int | None] = (None, None)
    contradicted: int = 0
    dropped: int = 0
    unlearnt: int = 0
    commonest: float = 0.0
    lost: str = ""
    source: str = ""

    def flaws(self) -> list[str]:
        """List what may spoil a result, each in a few words."""
        sizes = (self.train + self.blank + self.dropped, self.test)
        other = any(known not in (None, size) for known, size in zip(self.expected, sizes, strict=True))
        published = "/".join("?" if known is None else str(known) for known in self.expected)
        short = f"{self.over_budget} of {self.test} test answers are longer than the generation budget of {self.budget}"
        cut_off = (
            "the letter is scored, the rationale is cut" if self.opening_scored else "no prediction can be complete"
        )
        said = {
            f"dev equals test (all {self.dev} prompts): do not select models by it": 0 < self.dev == self.dev_in_test,
            f"{self.dev_in_test} of {self.dev} dev prompts are in test": 0 < self.dev_in_test < self.dev,
            f"{self.repeated} of {self.train} training prompts repeat an earlier one (data.dedup)": self.repeated,
            f"{self.contradicted} training prompts occur with different answers": self.contradicted,
            f"{self.leaked} test prompts ({self.leaked_examples} of {self.test} examples) are also in train "
            "(data.drop_leaks)": self.leaked,
            f"{self.unlearnt} of {self.test} test answers never occur in train": self.unlearnt,
            f"{self.commonest:.0%} of the training answers are the same": self.commonest >= MOST_OF_ONE,
            f"{self.blank} training answers are blank and left out": self.blank,
            f"{self.dropped} training examples are left out: their prompts are in test": self.dropped,
            f"{sizes[0]}/{sizes[1]} train/test examples; the published files have {published}": other,
            f"{self.no_room} prompts exceed data.max_prompt_tokens by template, instruction and cue alone: training "
            "will refuse them": self.no_room,
            f"{self.long_answers} of {self.train} training answers exceed data.max_answer_tokens: training "
            "refuses them, or leaves them out with data.long_answers=drop": self.long_answers,
            f"{short}: {cut_off} (data.max_new_tokens)": self.over_budget,
            self.lost: self.lost,
        }
        return [text for text, holds in said.items() if holds]


def profile(spec: TaskSpec, splits: Splits, dev: Sequence[Example], measure: Measure, limits: Limits) -> Profile:
    """Compute the profile of one task.

    Args:
        spec, splits, dev: the task, its data, and its development split if it has one.
        measure: measures lengths, in the unit of the limits and of the task's budget.
        limits: see Limits.
    """
    room = limits.prompt - limits.template
    train, test = (measured(split, measure, room, MOST_LABELS) for split in (splits.train, splits.test))
    said, few = train.said, closed(train.said)
    fixed_parts = train.fixed_parts + test.fixed_parts
    distinct = list(fixed_parts)
    too_long = [t for t, n in zip(distinct, measure(distinct), strict=True) if n + LEAST_CONTEXT > room]
    looked_at = (*splits.train[:SAMPLE], *splits.test[:SAMPLE])
    return Profile(
        train=len(splits.train),
        dev=len(dev),
        test=len(splits.test),
        blank=splits.blank,
        repeated=len(splits.train) - len(train.prompts),
        leaked=len(train.prompts.keys() & test.prompts.keys()),
        leaked_examples=sum(test.prompts[mark] for mark in train.prompts.keys() & test.prompts.keys()),
        dev_in_test=sum(fingerprint(e.prompt) in test.prompts for e in dev),
        labels=balance(said),
        prompts=percentiles(train.prompt_lengths),
        answers=percentiles(train.answer_lengths),
        cut_prompts=sum(n > room for n in train.prompt_lengths),
        no_room=sum(fixed_parts[part] for part in too_long),
        long_answers=sum(n + limits.end > limits.answer for n in train.answer_lengths),
        # Of several correct answers, the shortest suffices.
        over_budget=sum(n > spec.max_new_tokens for n in test.shortest),
        budget=spec.max_new_tokens,
        opening_scored=spec.metric in READ_THE_OPENING,
        expected=spec.published,
        contradicted=contradicted(splits.train),
        dropped=splits.leaked,
        unlearnt=sum(not {a.strip() for a in e.accepted} & said.keys() for e in splits.test) if few else 0,
        commonest=max(said.values()) / said.total() if few else 0.0,
        lost=str(limits.lost([f"{e.prompt}{e.answer}" for e in looked_at]) or ""),
        source=f"{spec.source}; its file says {splits.licence}" if splits.licence else spec.source,
    )


def contradicted(train: Sequence[Example]) -> int:
    """Count the prompts that occur with two or more different answers, ignoring surrounding whitespace."""
    first: dict[bytes, bytes] = {}
    different: set[bytes] = set()
    for example in train:
        prompt, answer = fingerprint(example.prompt), fingerprint(example.answer.strip())
        if first.setdefault(prompt, answer) != answer:
            different.add(prompt)
    return len(different)


def closed(answers: Counter[str]) -> bool:
    """Return whether the answers look like a closed set of labels: few, short, and used several times each."""
    few = 0 < len(answers) <= MOST_LABELS and len(answers) * LEAST_USES <= answers.total()
    return few and all(len(answer.split()) <= MOST_LABEL_WORDS for answer in answers)


def balance(answers: Counter[str]) -> dict[str, float]:
    """Return the share of each answer, the commonest first; empty if they are not a closed set (`closed`)."""
    counts = answers.most_common() if closed(answers) else []
    return {answer: count / answers.total() for answer, count in counts}


def percentiles(lengths: Sequence[int]) -> tuple[int, int, int]:
    """Return median, 95th percentile (nearest rank) and maximum; zeros for no lengths."""
    if not lengths:
        return 0, 0, 0
    ordered = sorted(lengths)
    return ordered[ceil(0.5 * len(ordered)) - 1], ordered[ceil(0.95 * len(ordered)) - 1], ordered[-1]


def words(texts: Sequence[str]) -> list[int]:
    """Measure lengths in whitespace-separated words."""
    return [len(text.split()) for text in texts]
