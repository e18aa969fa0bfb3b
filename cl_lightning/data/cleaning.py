"""Removes training examples whose prompt is repeated or also in the test split. Imports no torch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cl_lightning.data.base import Splits
from cl_lightning.data.streamed import only


@dataclass(frozen=True)
class Removed:
    """Numbers of removed training examples: repeated prompts, and prompts of the test split."""

    repeated: int = 0
    leaked: int = 0


def clean(splits: Splits, dedup: bool, drop_leaks: bool) -> tuple[Splits, Removed]:
    """Remove repeated and leaked training examples, and count them together with those the benchmark left out itself.

    Args:
        splits: the splits of one task; the test split is kept as it is.
        dedup: keep only the first of the training examples with the same prompt, whatever their answers.
        drop_leaks: remove training examples whose prompt is in the test split. Prompts are compared exactly.
    """
    if not dedup and not drop_leaks:
        return splits, Removed(leaked=splits.leaked)
    tested = {fingerprint(e.prompt) for e in splits.test} if drop_leaks else set()
    seen: set[bytes] = set()
    flags, repeated, leaked = bytearray(), 0, splits.leaked
    for example in splits.train:
        mark = fingerprint(example.prompt)
        again, in_test = dedup and mark in seen, mark in tested
        seen |= {mark} if dedup else set()
        repeated, leaked = repeated + again, leaked + (in_test and not again)
        flags.append(not again and not in_test)
    return replace(splits, train=only(splits.train, bytes(flags))), Removed(repeated, leaked)


def fingerprint(text: str) -> bytes:
    """Hash a text to 16 bytes, which are held in its place."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def removal_summary(removed: Mapping[str, Removed]) -> str:
    """Summarise in one line how many examples were removed from which task."""
    parts = [
        f"{name} {' and '.join(f'{count} {word}' for word, count in vars(r).items() if count)}"
        for name, r in removed.items()
        if r != Removed()
    ]
    return f"left out: {', '.join(parts)}" if parts else "nothing left out"
