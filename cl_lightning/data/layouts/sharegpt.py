"""Layout `sharegpt`: a list of turns with from and value. Imports no torch."""

from cl_lightning.data.layouts.messages import Messages


class ShareGPT(Messages):
    """The same as `messages` under ShareGPT's names."""

    name = "conversations"
    keys = ("from", "value")
    roles = {
        "system": "system",
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "chatgpt": "assistant",
        "assistant": "assistant",
    }
