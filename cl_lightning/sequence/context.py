"""TODO-DOC cl_lightning/sequence/context.py."""

from collections.abc import Sequence

from cl_lightning.data.prompt import Encoded

#: Examples and the factor of each one's summed NLL in the loss.
WeightedSamples = tuple[Sequence[Encoded], Sequence[float]]
