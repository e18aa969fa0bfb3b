"""Generation budgets: applies `data.max_new_tokens` to the tasks. Imports no torch."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from cl_lightning.common.errors import ConfigError, nearest
from cl_lightning.common.numbers import BEYOND, Integer
from cl_lightning.data.base import Benchmark, TaskSpec

#: None: each task's own; else a number for all tasks, the benchmark's published one, or a number per task.
Budget = Integer | Literal["official"] | dict[str, int] | None


def with_budget(specs: Mapping[str, TaskSpec], benchmark: Benchmark, chosen: Budget) -> dict[str, TaskSpec]:
    """Return the specs with the chosen generation budgets; tasks without a choice keep their own.

    Raises:
        ConfigError: less than one token, an unknown task, or a benchmark without a published budget.
    """
    if chosen == "official":
        if benchmark.official_max_new_tokens is None:
            raise ConfigError(
                f"data.max_new_tokens: {type(benchmark).__name__} names no official budget; give a number"
            )
        chosen = benchmark.official_max_new_tokens
    if chosen is None:
        return dict(specs)
    budgets = chosen if isinstance(chosen, dict) else dict.fromkeys(specs, chosen)
    for name, tokens in budgets.items():
        if name not in specs:
            raise ConfigError(f"data.max_new_tokens: unknown task {name!r}; {nearest(str(name), specs)}")
        if not 1 <= tokens < BEYOND:
            of = f" of {name}" if isinstance(chosen, dict) else ""
            limit = "1 or more" if tokens < 1 else "below 2^31"
            raise ConfigError(f"data.max_new_tokens: {tokens}{of} must be {limit}")
    return {name: replace(spec, max_new_tokens=budgets.get(name, spec.max_new_tokens)) for name, spec in specs.items()}
