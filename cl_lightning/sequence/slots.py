"""Slots of the configuration that hold a class of ours, and the package that exports it. No torch here."""

import re

#: Options that hold a class of ours: the package that exports it.
SLOTS = {
    r"model\.adapter(\.branches)*": "cl_lightning.adapters",
    r"data\.benchmark(\.base)*": "cl_lightning.data",
    r"(boundary|observers)\.[^.]+": "callbacks",
    r"boundary\.[^.]+\.initializer": "cl_lightning.initializers",
    r"boundary\.[^.]+\.operator": "cl_lightning.surgery",
}

#: Classes of ours that are parts of those: their options say which, a configuration never names them.
PARTS = ("cl_lightning.data.benchmarks.user_tasks.UserTask",)


def slot_package(option: str) -> str | None:
    """The package whose classes `option` takes, None where it takes none."""
    option = option.replace(".init_args", "")
    return next((package for pattern, package in SLOTS.items() if re.fullmatch(pattern, option)), None)
