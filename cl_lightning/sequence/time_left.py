"""Measured costs of stages, and what further tasks cost by them. Pure arithmetic: no clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field

#: A stage, and the task that it scores, or "".
Key = tuple[str, str]
#: The stages of which the amount of work is known before, and the one that scores the untrained model.
TRAINING, SCORING, ZERO_SHOT = "training", "scoring", "zero-shot"


@dataclass
class Cost:
    """Seconds, and the units of work done in them."""

    seconds: float = 0.0
    units: float = 0.0


@dataclass
class Costs:
    """Costs of the stages of the tasks so far.

    A task costs what the last finished one did, stage by stage. Where the amount of work is known before (optimiser
    steps, scored prompts), it costs that amount at the last price of a unit. As seen tasks are scored, later tasks cost
    more. A task that was never scored after training costs what scoring it before training did, times the ratio
    of both over the tasks that have both: trained models answer shorter.

    Attributes:
        tasks: number of finished tasks.
        last: the last cost of each stage and item.
        now: those of the task that is worked on.
        before: those of the last finished task.
    """

    tasks: int = 0
    last: dict[Key, Cost] = field(default_factory=dict)
    now: dict[Key, Cost] = field(default_factory=dict)
    before: dict[Key, Cost] = field(default_factory=dict)

    def add(self, key: Key, seconds: float, units: float) -> None:
        """Add what a stage of the task cost."""
        cost = self.now.setdefault(key, Cost())
        cost.seconds += seconds
        cost.units += units
        self.last[key] = cost

    def end_task(self) -> None:
        """Let the task be the last finished one."""
        self.before, self.now = self.now, {}
        self.tasks += 1

    def of(self, key: Key, units: float | None = None) -> float:
        """Return the seconds that a stage takes in a task: at the price of a unit, or as in the last finished task."""
        if units is None:
            return self.before.get(key, Cost()).seconds
        return units * self._price(key)

    def rest_of(self, key: Key, units: float | None = None) -> float:
        """Return the seconds that a stage still takes in the task that is worked on, less those it has taken."""
        return max(0.0, self.of(key, units) - self.now.get(key, Cost()).seconds)

    def of_task(self, plan: Mapping[Key, float]) -> float:
        """Return the seconds that a task takes, of which the units in `plan` are known."""
        return sum(self.of(key, plan.get(key)) for key in self._stages(plan))

    def rest_of_task(self, plan: Mapping[Key, float], current: Key) -> float:
        """Return the seconds that the task's other stages than `current` still take; a planned one is begun once."""
        rest = self._stages(plan) - {current} - (self.now.keys() & plan.keys())
        return sum(self.rest_of(key, plan.get(key)) for key in rest)

    def _stages(self, plan: Mapping[Key, float]) -> set[Key]:
        # Other tasks' scores are planned, and the untrained model is scored once.
        once = {name for name, _ in plan} | {ZERO_SHOT}
        return plan.keys() | {key for key in self.before if key[0] not in once}

    def _price(self, key: Key) -> float:
        """Return the seconds of a unit."""
        if (known := self.last.get(key)) is not None and known.units:
            return known.seconds / known.units
        same = {item: cost for (name, item), cost in self.last.items() if name == key[0] and cost.units}
        if key[0] == SCORING and (untrained := self.last.get((ZERO_SHOT, key[1]))) is not None and untrained.units:
            both = [(cost, self.last[ZERO_SHOT, item]) for item, cost in same.items() if (ZERO_SHOT, item) in self.last]
            seconds = sum(cost.seconds for _, cost in both)
            ratio = sum(cost.seconds for cost, _ in both) / seconds if seconds else 1.0
            return ratio * untrained.seconds / untrained.units
        units = sum(cost.units for cost in same.values())
        return sum(cost.seconds for cost in same.values()) / units if units else 0.0
