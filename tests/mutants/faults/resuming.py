"""Faults in going on inside a task."""

from tests.mutants.faults.fault import Fault

KILLED = "tests/chaos/test_killed.py -k sigterm"
FAULTS = (
    Fault(
        "the sampler begins an epoch again",
        "cl_lightning/data/sampler.py",
        "yield from islice(self._all(), done if self.epoch == epoch else 0, None)",
        "yield from self._all()",
        KILLED,
    ),
    Fault(
        "the random streams are not restored",
        "cl_lightning/sequence/trainer_hooks.py",
        "            set_random_streams(self._streams[distributed.rank()], self._device)\n",
        "",
        KILLED,
    ),
    Fault(
        "the clock of a checkpoint is that of the last task",
        "cl_lightning/sequence/saving.py",
        'inside.stage, inside.checkpoint, inside.clock = "training", name, dict(vars(self.record.clock))',
        'inside.stage, inside.checkpoint = "training", name',
        KILLED,
    ),
)
