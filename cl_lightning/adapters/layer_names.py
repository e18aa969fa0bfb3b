"""Places of layers in an encoder-decoder (T5, BART and similar), by their names."""

CROSS_ATTENTION = ("encdecattention", "encoder_attn", "crossattention")
KEYS_AND_VALUES = ("k", "v", "k_proj", "v_proj", "key", "value")
#: Name of the query projection beside a key or value projection.
QUERY = {"k": "q", "v": "q", "k_proj": "q_proj", "v_proj": "q_proj", "key": "query", "value": "query"}


def _crosses(name: str) -> bool:
    """Tell whether a layer is a key or value of cross-attention, which reads the encoder's states."""
    *parts, last = name.lower().split(".")
    return any(part in CROSS_ATTENTION for part in parts) and last in KEYS_AND_VALUES


def sees_decoder(name: str) -> bool:
    """Tell whether a layer of an encoder-decoder reads decoder positions."""
    return "decoder" in name.lower().split(".") and not _crosses(name)


def query_of(name: str) -> str:
    """Return the query's name for a key or value of cross-attention; otherwise the name itself."""
    parent, _, last = name.rpartition(".")
    return f"{parent}.{QUERY[last]}" if _crosses(name) else name
