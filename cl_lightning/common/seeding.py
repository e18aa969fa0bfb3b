"""One seed per purpose, so that random numbers do not depend on how many were drawn before."""

import hashlib

import torch


def derive_seed(*parts: object) -> int:
    """Derive a seed from (run seed, task, purpose, ...): equal on all ranks, machines and Python versions."""
    text = "/".join(str(p) for p in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")


def generator(*parts: object) -> torch.Generator:
    """Make a CPU generator seeded with `derive_seed(*parts)`."""
    return torch.Generator().manual_seed(derive_seed(*parts))
