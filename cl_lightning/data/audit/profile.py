"""What there is to know about a task's data before anyone trains on it. Pure, no torch here."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil

from cl_lightning.data.base import Example, Splits, TaskSpec
from cl_lightning.data.budget import Budget
from cl_lightning.data.prompt_parts import LEAST_CONTEXT

#: Lengths of texts, in words or tokens.
Measure = Callable[[Sequence[str]], list[int]]

#: Metrics that read how an answer opens; what a budget cuts off is its rationale.
READ_THE_OPENING = ("first_letter",)

#: Of no more different answers than these, each of few words and used so often on average, a task has a label set.
MOST_LABELS, MOST_LABEL_WORDS, LEAST_USES = 20, 4, 5
#: From this share of one answer on, saying it always scores nearly as much as knowing it.
MOST_OF_ONE = 0.95


@dataclass(frozen=True)
class Limits:
    """Longest prompt and answer that training takes whole (`data.max_prompt_tokens`, `data.max_answer_tokens`), the
    choice of generation budgets (`data.max_new_tokens`), and what they hold beside the text: how much of a prompt the
    chat template takes, of an answer the end token."""

    prompt: int = 256
    answer: int = 256
    generated: Budget = None
    template: int = 0
    end: int = 0


@dataclass(frozen=True)
class Profile:
    """One task's data.

    Attributes:
        train, dev, test: numbers of examples; of `train` the benchmark has left out `blank` examples without an answer
            and `dropped` ones whose prompt is in test.
        repeated: training prompts that have occurred before.
        contradicted: different training prompts that occur with two or more different answers.
        leaked: different test prompts that are also in train; `leaked_examples`: test examples that have one.
        dev_in_test: dev prompts that are also in test.
        labels: answer -> share of train, where the answers are a closed set; else empty.
        prompts, answers: lengths in train: median, 95th percentile, longest.
        cut_prompts: training prompts over the limit, which lose their middle.
        no_room: prompts, test ones too, over the limit by template, instruction and cue, which training refuses.
        long_answers: training answers over the limit, which are refused or dropped.
        over_budget: test answers longer than the task's generation budget, which no prediction can reach whole.
        budget: that budget.
        opening_scored: whether the metric reads only how an answer opens, so that its score suffers nothing by that.
        expected: numbers of examples in the published train and test files, None where not known.
        unlearnt: test examples none of whose answers occurs in train, where those are few.
        commonest: share of the commonest training answer, where there are few; else 0.
        source: where the data comes from, with its licence, also as its own file states it.
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
    source: str = ""

    def flaws(self) -> list[str]:
        """What may spoil a result, each in a few words."""
        sizes = (self.train + self.blank + self.dropped, self.test)
        other = any(known not in (None, size) for known, size in zip(self.expected, sizes, strict=True))
        published = "/".join("?" if known is None else str(known) for known in self.expected)
        short = f"{self.over_budget} of {self.test} test answers are longer than the generation budget of {self.budget}"
        cut_off = (
            "the letter is scored, the rationale is cut" if self.opening_scored else "no prediction reaches them whole"
        )
        said = {
            f"dev equals test (all {self.dev} prompts): select nothing on it": 0 < self.dev == self.dev_in_test,
            f"{self.dev_in_test} of {self.dev} dev prompts are in test": 0 < self.dev_in_test < self.dev,
            f"{self.repeated} of {self.train} training prompts repeat an earlier one (data.dedup)": self.repeated,
            f"{self.contradicted} training prompts occur with different answers": self.contradicted,
            f"{self.leaked} test prompts ({self.leaked_examples} of {self.test} examples) are also in train "
            "(data.drop_leaks)": self.leaked,
            f"{self.unlearnt} of {self.test} test answers never occur in train": self.unlearnt,
            f"{self.commonest:.0%} of the training answers are the same": self.commonest >= MOST_OF_ONE,
            f"{self.blank} training answers are blank and left out": self.blank,
            f"{self.dropped} training examples are left out: their prompts are in test": self.dropped,
            f"{sizes[0]}/{sizes[1]} train/test examples, published are {published}": other,
            f"{self.no_room} prompts are over data.max_prompt_tokens by template, instruction and cue alone: training "
            "will refuse them": self.no_room,
            f"{self.long_answers} of {self.train} training answers are over data.max_answer_tokens: training "
            "refuses them, or leaves them out with data.long_answers=drop": self.long_answers,
            f"{short}: {cut_off} (data.max_new_tokens)": self.over_budget,
        }
        return [text for text, holds in said.items() if holds]


def profile(spec: TaskSpec, splits: Splits, dev: Sequence[Example], measure: Measure, limits: Limits) -> Profile:
    """Look at one task.

    Args:
        spec, splits, dev: the task, its data, its development split if it has one.
        measure: gives lengths; the limits and the task's budget are in its unit.
        limits: see Limits.
    """
    seen, tested = {e.prompt for e in splits.train}, {e.prompt for e in splits.test}
    prompts, answers = measure([e.prompt for e in splits.train]), measure([e.answer for e in splits.train])
    room = limits.prompt - limits.template
    both = zip((*splits.train, *splits.test), (*prompts, *measure([e.prompt for e in splits.test])), strict=True)
    fixed_parts = [e.prompt[: e.instruction] + e.prompt[len(e.prompt) - e.cue :] for e, n in both if n > room]
    distinct = list(dict.fromkeys(fixed_parts))
    too_long = {t for t, n in zip(distinct, measure(distinct), strict=True) if n + LEAST_CONTEXT > room}
    # The shortest of several right answers is the one to reach.
    shortest = measure([min(e.accepted, key=len) for e in splits.test])
    said = [e.answer.strip() for e in splits.train]
    learnt, few = set(said), closed(said)
    return Profile(
        train=len(splits.train),
        dev=len(dev),
        test=len(splits.test),
        blank=splits.blank,
        repeated=len(splits.train) - len(seen),
        leaked=len(seen & tested),
        leaked_examples=sum(e.prompt in seen for e in splits.test),
        dev_in_test=sum(e.prompt in tested for e in dev),
        labels=balance(said),
        prompts=percentiles(prompts),
        answers=percentiles(answers),
        cut_prompts=sum(n > room for n in prompts),
        no_room=sum(part in too_long for part in fixed_parts),
        long_answers=sum(n + limits.end > limits.answer for n in answers),
        over_budget=sum(n > spec.max_new_tokens for n in shortest),
        budget=spec.max_new_tokens,
        opening_scored=spec.metric in READ_THE_OPENING,
        expected=spec.published,
        contradicted=contradicted(splits.train),
        dropped=splits.leaked,
        unlearnt=sum(not {a.strip() for a in e.accepted} & learnt for e in splits.test) if few else 0,
        commonest=max(Counter(said).values()) / len(said) if few else 0.0,
        source=f"{spec.source}; its file says {splits.licence}" if splits.licence else spec.source,
    )


def contradicted(train: Sequence[Example]) -> int:
    """How many prompts occur with two or more different answers (blanks around them apart)."""
    answers: dict[str, set[str]] = {}
    for example in train:
        answers.setdefault(example.prompt, set()).add(example.answer.strip())
    return sum(len(different) > 1 for different in answers.values())


def closed(answers: Sequence[str]) -> bool:
    """Whether they look like a closed set of labels: few, short, and on average used some times each."""
    distinct = set(answers)
    few = 0 < len(distinct) <= MOST_LABELS and len(distinct) * LEAST_USES <= len(answers)
    return few and all(len(answer.split()) <= MOST_LABEL_WORDS for answer in distinct)


def balance(answers: Sequence[str]) -> dict[str, float]:
    """Share of each answer, the commonest first; empty where they are no closed set of labels (`closed`)."""
    counts = Counter(answers) if closed(answers) else Counter()
    return {answer: count / len(answers) for answer, count in counts.most_common()}


def percentiles(lengths: Sequence[int]) -> tuple[int, int, int]:
    """Median, 95th percentile (each the smallest length that so many do not exceed), longest; zeros for none."""
    if not lengths:
        return 0, 0, 0
    ordered = sorted(lengths)
    return ordered[ceil(0.5 * len(ordered)) - 1], ordered[ceil(0.95 * len(ordered)) - 1], ordered[-1]


def words(texts: Sequence[str]) -> list[int]:
    """Lengths in words between blanks."""
    return [len(text.split()) for text in texts]
