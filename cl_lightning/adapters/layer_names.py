"""What a layer's name says of its place in an encoder-decoder (T5, BART and their kin)."""

CROSS_ATTENTION = ("encdecattention", "encoder_attn", "crossattention")
KEYS_AND_VALUES = ("k", "v", "k_proj", "v_proj", "key", "value")
#: The query beside a key or value.
QUERY = {"k": "q", "v": "q", "k_proj": "q_proj", "v_proj": "q_proj", "key": "query", "value": "query"}


def _crosses(name: str) -> bool:
    """Whether it is a key or value of cross-attention, which reads the encoder's states."""
    *parts, last = name.lower().split(".")
    return any(part in CROSS_ATTENTION for part in parts) and last in KEYS_AND_VALUES


def sees_decoder(name: str) -> bool:
    """Whether a layer of an encoder-decoder reads decoder positions."""
    return "decoder" in name.lower().split(".") and not _crosses(name)


def query_of(name: str) -> str:
    """The query's name, for a key or value of cross-attention; the name itself otherwise."""
    parent, _, last = name.rpartition(".")
    return f"{parent}.{QUERY[last]}" if _crosses(name) else name
