"""Tasks, sequences of tasks, and how their examples become batches."""

from cl_lightning.common.lazy import lazy_exports

EXPORTS = {
    "Flipped": "flipped",
    "LongSequence": "long_sequence",
    "NISeq": "ni_seq",
    "SuperNI": "superni",
    "TRACE": "trace",
    "UserTasks": "user_tasks",
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, EXPORTS)
