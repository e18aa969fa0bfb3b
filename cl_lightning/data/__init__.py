"""Tasks, sequences of tasks, and how their examples become batches."""

from cl_lightning.common.lazy import lazy_exports

EXPORTS = {
    "DatasetTasks": "benchmarks.dataset_tasks",
    "Flipped": "benchmarks.flipped",
    "LongSequence": "benchmarks.long_sequence",
    "NISeq": "benchmarks.ni_seq",
    "SuperNI": "benchmarks.superni",
    "TRACE": "benchmarks.trace",
    "UserTasks": "benchmarks.user_tasks",
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, EXPORTS)
