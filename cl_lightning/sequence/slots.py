"""Options of the configuration that take a class of this project (slots). No torch here."""

import re

#: Pattern of an option that takes a class -> the package that exports its classes.
SLOTS = {
    r"model\.adapter(\.branches)*": "cl_lightning.adapters",
    r"data\.benchmark(\.base)*": "cl_lightning.data",
    r"(boundary|observers)\.[^.]+": "callbacks",
    r"boundary\.[^.]+\.initializer": "cl_lightning.initializers",
    r"boundary\.[^.]+\.operator": "cl_lightning.surgery",
}

#: Classes that are built for an option of those classes, and that a configuration never names.
PARTS = (
    "cl_lightning.data.benchmarks.dataset_tasks.DatasetTask",
    "cl_lightning.data.benchmarks.user_tasks.UserTask",
)


def slot_package(option: str) -> str | None:
    """Return the package whose classes `option` takes, or None if it takes no class."""
    option = option.replace(".init_args", "")
    return next((package for pattern, package in SLOTS.items() if re.fullmatch(pattern, option)), None)
