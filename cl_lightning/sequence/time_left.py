"""What further work of a run costs by what its stages have cost. Pure arithmetic: no clock."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from cl_lightning.sequence.costs import Key

#: Stages of which the amount of work is known before, and the one that scores the untrained model.
TRAINING, SCORING, ZERO_SHOT = "training", "scoring", "zero-shot"
#: Units of work of a task that are known before it, by stage and scored task.
Plan = Mapping[Key, float]


@dataclass(frozen=True)
class Spent:
    """Seconds, and the planned units of work done in them."""

    seconds: float = 0.0
    units: float = 0.0


@dataclass(frozen=True)
class Going:
    """A stage that goes on.

    Attributes:
        left, done: planned units still to do, None if that is not known; and those that this process has done.
        seconds: it has taken.
        advanced: what `seconds` was when `done` last changed.
        pace: seconds of a planned unit; None before that is measured.
    """

    left: float | None
    done: float
    seconds: float
    advanced: float
    pace: float | None


@dataclass(frozen=True)
class TimeLeft:
    """The rest of a run, from what was measured of it.

    Work that is planned (training tokens, scored prompts) costs its amount at the last price of a unit: of the current
    task, or of the last task that had it. Other work costs what it did in the last finished task; in the first task,
    what it has cost so far. A task that was never scored after training costs what scoring it before training did,
    times the ratio of both over the tasks that have both: trained models answer shorter.

    Attributes:
        plan: of each task.
        finished: seconds of the finished tasks by stage and scored task.
        now: the same of the current task so far; None between tasks.
        ended: stages of the current task that have ended in this process.
        over: those that do not begin again.
        going: those that go on.
    """

    plan: Sequence[Plan]
    finished: Sequence[Mapping[Key, float]]
    now: Mapping[Key, float] | None
    ended: Mapping[Key, Spent]
    over: AbstractSet[Key]
    going: Mapping[Key, Going]

    def total(self) -> float | None:
        """Return the seconds left; None where the price of planned work is not known."""
        rest = self.plan[len(self.finished) :]
        if self.now is None:
            return _sum(map(self._task, rest))
        return _sum([self._current(rest[0], self.now), *map(self._task, rest[1:])])

    def _task(self, plan: Plan) -> float | None:
        """Return the seconds of a later task."""
        last = self.finished[-1] if self.finished else self.now or {}
        other = [seconds for key, seconds in last.items() if self._is_other(key)]
        return _sum([*(self._cost(key, units) for key, units in plan.items()), *other])

    def _current(self, plan: Plan, now: Mapping[Key, float]) -> float | None:
        """Return the seconds that the current task still takes."""
        last = self.finished[-1] if self.finished else {}
        planned = [self._rest_of(key, units) for key, units in plan.items() if key not in self.over]
        other = [
            max(0.0, seconds - now.get(key, 0.0))
            for key, seconds in last.items()
            if self._is_other(key) and key not in self.over
        ]
        return _sum([*planned, *other])

    def _rest_of(self, key: Key, units: float) -> float | None:
        """Return the seconds that a planned stage of the current task still takes."""
        done = self.ended.get(key, Spent()).units
        going = self.going.get(key)
        if going is None:
            return self._cost(key, max(0.0, units - done))
        left = max(0.0, units - done - going.done) if going.left is None else going.left
        if going.pace is not None:
            return max(0.0, left * going.pace - (going.seconds - going.advanced))
        price = self._price(key)
        return None if price is None else max(0.0, (left + going.done) * price - going.seconds)

    def _is_other(self, key: Key) -> bool:
        """Whether a stage is planned in no task."""
        return all(key[0] != name for plan in self.plan for name, _ in plan)

    def _cost(self, key: Key, units: float) -> float | None:
        if not units:
            return 0.0
        price = self._price(key)
        return None if price is None else units * price

    def _price(self, key: Key) -> float | None:
        """Return the seconds of a planned unit of a stage; None if that is not known."""
        if (measured := self._measured(key)) is not None:
            return measured
        name, item = key
        there = {item for plan in self.plan for other, item in plan if other == name}
        same = {item: price for item in there if (price := self._measured((name, item))) is not None}
        untrained = {item: price for item in (item, *same) if (price := self._measured((ZERO_SHOT, item))) is not None}
        if name == SCORING and item in untrained:
            both = same.keys() & untrained.keys()
            before = sum(untrained[item] for item in both)
            return untrained[item] * (sum(same[item] for item in both) / before if before else 1.0)
        return sum(same.values()) / len(same) if same else None

    def _measured(self, key: Key) -> float | None:
        going = self.going.get(key)
        if going is not None and going.pace is not None:
            return going.pace
        if (spent := self.ended.get(key)) is not None and spent.units:
            return spent.seconds / spent.units
        before = [*zip(self.finished, self.plan, strict=False)]
        return next((of[key] / plan[key] for of, plan in reversed(before) if key in of and plan.get(key)), None)


def _sum(parts: Iterable[float | None]) -> float | None:
    """Return the sum; None if a part is not known."""
    known = list(parts)
    return None if None in known else sum(known)
