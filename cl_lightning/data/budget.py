"""Generation budgets: applies `data.max_new_tokens` to the tasks. Imports no torch."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Integer
from cl_lightning.data.base import Benchmark, TaskSpec

#: None: each task's own; else a number for all tasks, or the benchmark's published one.
Budget = Integer | Literal["official"] | None


def with_budget(specs: Mapping[str, TaskSpec], benchmark: Benchmark, chosen: Budget) -> dict[str, TaskSpec]:
    """Return the specs with the chosen generation budget.

    Raises:
        ConfigError: less than one token, or a benchmark without a published budget.
    """
    if chosen == "official":
        if benchmark.official_max_new_tokens is None:
            raise ConfigError(
                f"data.max_new_tokens: {type(benchmark).__name__} has no published budget; give a number instead of "
                "official"
            )
        chosen = benchmark.official_max_new_tokens
    if chosen is None:
        return dict(specs)
    if chosen < 1:
        raise ConfigError(f"data.max_new_tokens: {chosen} must be 1 or more")
    return {name: replace(spec, max_new_tokens=chosen) for name, spec in specs.items()}
