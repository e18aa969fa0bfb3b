"""One seed per purpose: numbers that depend on what is drawn, never on how many draws came before."""

import hashlib

import torch


def derive_seed(*parts: object) -> int:
    """A seed from (run seed, task, purpose, ...): equal on all ranks, machines and Python versions."""
    text = "/".join(str(p) for p in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded by `derive_seed(*parts)`."""
    return torch.Generator().manual_seed(derive_seed(*parts))
