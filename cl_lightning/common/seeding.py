"""One seed per purpose, so that random numbers do not depend on how many were drawn before."""

import hashlib
import random
from typing import Any

import numpy as np
import torch


def derive_seed(*parts: object) -> int:
    """Derive a seed from (run seed, task, purpose, ...): equal on all ranks, machines and Python versions."""
    text = "/".join(str(p) for p in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")


def generator(*parts: object) -> torch.Generator:
    """Make a CPU generator seeded with `derive_seed(*parts)`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def random_streams(device: torch.device) -> dict[str, Any]:
    """Return the states of the global generators of this process, of tensors and plain values only."""
    name, keys, *rest = np.random.get_state()
    streams = {"torch": torch.get_rng_state(), "python": random.getstate()}
    streams["numpy"] = (name, torch.from_numpy(keys.astype(np.int64)), *rest)
    if device.type == "cuda":
        streams["cuda"] = torch.cuda.get_rng_state(device)
    return streams


def set_random_streams(streams: dict[str, Any], device: torch.device) -> None:
    """Restore the output of `random_streams`."""
    name, keys, *rest = streams["numpy"]
    torch.set_rng_state(streams["torch"])
    random.setstate(streams["python"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    if "cuda" in streams and device.type == "cuda":
        torch.cuda.set_rng_state(streams["cuda"], device)
