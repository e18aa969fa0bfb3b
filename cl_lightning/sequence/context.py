"""What a task callback may ask of a run."""

from collections.abc import Sequence

from cl_lightning.data.prompt import Encoded

#: Examples and the factor of each one's summed NLL in the loss.
WeightedSamples = tuple[Sequence[Encoded], Sequence[float]]
