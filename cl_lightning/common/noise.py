"""Messages of libraries that say nothing to a user, by name. All others are printed."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

#: Logged messages.
LOGGED = (
    # 4-bit products run without this kernel, which needs another package and a network.
    r"Failed to load CPU gemm_4bit_forward",
    # Missing weights are refused in one line, which this report would precede. Unused weights are reported.
    r"(?s).* LOAD REPORT.*(MISSING|MISMATCH)",
    # Prompts are cut to their limit after they have been measured.
    r"Token indices sequence length is longer than",
    # Our options are set on purpose beside the model's own settings.
    r"Both `max_new_tokens` .* and `max_length`",
    r"The following generation flags are not valid and may be ignored",
    # A GGUF file is converted once, and its weights are not kept packed.
    r"Loading a GGUF checkpoint with its weights packed is fastest in float32",
    # Keys and values are not cached where activations are checkpointed.
    r"(Caching|`use_cache=True`) is incompatible with gradient checkpointing",
    # Encoders with windows pad their inputs themselves, at each length anew (LED).
    r"Input ids are automatically padded from",
    # Kernels of further packages, which pass over adapters or need a GPU.
    r"`\w+` is falling back to its reference PyTorch implementation",
    r"(?s)CUDA-fused xIELU not available",
    # A configuration that is refused in one line, which these would precede.
    r"You are using a model of type .* to instantiate a model of type ``",
    r"Missing validation function in 'RotaryEmbeddingConfigMixin'",
    # The hub is tried again; that it is waited for has been said.
    r"(?s).* thrown while requesting |Retrying in ",
)
#: Warnings.
WARNED = (
    r".*does not have many workers",
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    r"Found \d+ module\(s\) in eval mode at the start of training",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"Experiment logs directory .* exists and is not empty",
    # The stored configuration says the same in place of an option that is an object.
    r"\s*Unable to serialize instance",
    # The loss that callbacks monitor is summed over ranks before it is given to Lightning.
    r"It is recommended to use `self.log\('train/loss'",
)
#: Lightning's loggers of notices.
LIGHTNING = ("lightning.pytorch", "lightning.fabric")


class _Named(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not any(re.match(pattern, text) for pattern in LOGGED)


_FILTER = _Named()


def silence() -> None:
    """Leave out the messages named here, transformers' bars, and Lightning's notices (tips, devices found).

    For commands. Call after both are imported.
    """
    silence_loading()
    for name in LIGHTNING:
        logging.getLogger(name).setLevel(logging.WARNING)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for pattern in WARNED:
        warnings.filterwarnings("ignore", message=pattern)


@contextmanager
def silenced() -> Iterator[None]:
    """Leave out the same inside, for scripts; what they have set is as it was afterwards."""
    from transformers.utils import logging as bars

    loggers = [logging.getLogger(name) for name in LIGHTNING]
    levels, barred = [logger.level for logger in loggers], bars.is_progress_bar_enabled()
    with warnings.catch_warnings():
        silence()
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if barred:
                bars.enable_progress_bar()


def silence_loading() -> None:
    """Leave out the logged messages named here. Call after transformers is imported."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_FILTER)
    for library in ("transformers", "huggingface_hub"):
        for handler in logging.getLogger(library).handlers:
            handler.addFilter(_FILTER)
