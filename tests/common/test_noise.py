"""Libraries' messages are left out by name; what is not named is printed."""

import logging
import warnings

import pytest
import transformers

from cl_lightning.common.noise import silence, silence_loading

NOISE = "Failed to load CPU gemm_4bit_forward from kernels-community: No module named 'kernels'."
REPORT = "LlamaForCausalLM LOAD REPORT from: x\nlm_head.weight | {} |"


@pytest.fixture
def transformers_log() -> logging.Logger:
    """A logger of transformers, whose root has handlers."""
    transformers.utils.logging.get_logger("transformers")
    silence_loading()
    return logging.getLogger("transformers.modeling_utils")


@pytest.mark.parametrize(
    ("message", "printed"),
    [
        (REPORT.format("MISSING"), False),  # refused in one line of ours
        (REPORT.format("UNEXPECTED"), True),
        ("Token indices sequence length is longer than the specified maximum", False),
        ("Input ids are automatically padded from 4 to 512 to be a multiple of `config.attention_window`: 512", False),
        ("`causal_conv1d_fn` is falling back to its reference PyTorch implementation because `causal_conv1d`", False),
        ("CUDA-fused xIELU not available (No module named 'xielu')\nFor CUDA xIELU, `pip install", False),
        ("You are using a model of type `nosuch` to instantiate a model of type ``. This may be", False),
        ("You are using a model of type `qwen2` to instantiate a model of type `llama`. This", True),
        ("Missing validation function in 'RotaryEmbeddingConfigMixin' for 'rope_type'='yarnn'", False),
        ("a real warning: Token indices", True),
    ],
)
def test_a_library_prints_what_is_not_named(message: str, printed: bool, transformers_log: logging.Logger) -> None:
    record = transformers_log.makeRecord(transformers_log.name, logging.WARNING, "", 0, message, (), None)
    assert all(bool(handler.filter(record)) == printed for handler in logging.getLogger("transformers").handlers)


def test_a_missing_kernel_is_no_news() -> None:
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    record = logger.makeRecord(logger.name, logging.WARNING, "", 0, NOISE, (), None)
    silence_loading()
    assert not logger.filter(record)
    assert logger.filter(logger.makeRecord(logger.name, logging.WARNING, "", 0, "other", (), None))


def test_warnings_are_left_out_by_name() -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        silence()
        warnings.warn("Found 47 module(s) in eval mode at the start of training. This may", stacklevel=1)
        warnings.warn("\n    Unable to serialize instance cpu\n", stacklevel=1)
        warnings.warn("a real one", stacklevel=1)
    assert [str(warning.message) for warning in found] == ["a real one"]


def test_scripts_keep_their_bars_and_lightnings_notices() -> None:
    """Loading a model leaves out messages only: the caller's bars and log levels stay."""
    before = transformers.utils.logging.is_progress_bar_enabled(), logging.getLogger("lightning.pytorch").level
    silence_loading()
    after = transformers.utils.logging.is_progress_bar_enabled(), logging.getLogger("lightning.pytorch").level
    assert before == after
