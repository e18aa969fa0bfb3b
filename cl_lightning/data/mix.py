"""How replayed examples are mixed into training: a share of every batch, or whole batches in turns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mix:
    """How new and replayed examples share the steps of an epoch. All new examples are seen once, however they do.

    Args:
        ratio: share of every batch that is replayed, 0..1.
        turn: if above 0, batches are not shared: after so many of new examples come as many of replayed ones.
    """

    ratio: float = 0.0
    turn: int = 0

    def replayed(self, batch_size: int) -> int:
        """Return the replayed examples of a shared batch; at least one place is left to a new one."""
        return min(round(batch_size * self.ratio), batch_size - 1)

    def turns(self, new: int, batch_size: int) -> list[int]:
        """Return the batches of each turn of `new` examples; as many replayed ones follow it if `turn` is above 0."""
        batches = -(-new // (batch_size - self.replayed(batch_size)))
        size = self.turn or batches
        return [min(size, batches - start) for start in range(0, batches, size)]

    def steps(self, new: int, batch_size: int) -> int:
        """Return the steps of an epoch with `new` examples."""
        return sum(self.turns(new, batch_size)) * (2 if self.turn else 1)


#: No replay.
NEW_ONLY = Mix()
