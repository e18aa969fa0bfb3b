"""Shapes of models too large to load."""


def llama_shapes(hidden: int, intermediate: int, layers: int, kv: int) -> dict[str, tuple[int, int]]:
    """All linear layers of a Llama's blocks: (m, n) by name. `kv`: width of keys and values."""
    block = {
        "q": (hidden, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, hidden),
        "gate": (intermediate, hidden), "up": (intermediate, hidden), "down": (hidden, intermediate),
    }  # fmt: skip
    return {f"{i}.{name}": shape for i in range(layers) for name, shape in block.items()}
