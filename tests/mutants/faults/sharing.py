"""Faults where ranks share the base."""

from tests.mutants.faults.fault import Fault

HALVES = "tests/model/test_sharding.py tests/sequence/test_sharded_base.py -m 'not long'"
FAULTS = (
    Fault(
        "gradients are not averaged over the ranks",
        "cl_lightning/model/strategies.py",
        "            _average_gradients(optimizer)\n",
        "",
        HALVES,
    ),
    Fault(
        "every rank adds the first rows of a folded branch",
        "cl_lightning/adapters/linear.py",
        "change = distribute_tensor(change, W.device_mesh, W.placements, src_data_rank=None)",
        "change = type(W).from_local(change[: len(W.to_local())], W.device_mesh, W.placements)",
        HALVES,
    ),
    Fault(
        "a training step may run another number of passes on each rank",
        "cl_lightning/model/module.py",
        " or is_sharded(self.llm)",
        "",
        HALVES,
    ),
)
