"""Generation settings of a model that change greedy decoding, and neutral settings without them."""

from typing import Any

from transformers import GenerationConfig

#: Settings that change the next greedy token or where an answer ends: name -> neutral value. Those of sampling and beam
#: search have no effect on greedy decoding.
NEUTRAL: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "exponential_decay_length_penalty": None,
    "guidance_scale": 1.0,
    "watermarking_config": None,
    "stop_strings": None,
    "max_time": None,
}
#: Special tokens, which every model needs.
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
#: Longest value, in characters, that `describe` prints.
SHORT = 24


def effective_settings(settings: GenerationConfig) -> dict[str, Any]:
    """Return the settings that change greedy decoding, by name."""
    own = {name: getattr(settings, name, None) for name in NEUTRAL}
    return {name: value for name, value in own.items() if value not in (None, [], {}, NEUTRAL[name])}


def neutral_settings(settings: GenerationConfig) -> GenerationConfig:
    """Keep only the special tokens, so that greedy decoding takes the most likely token each time."""
    return GenerationConfig(**{name: getattr(settings, name) for name in TOKENS})


def describe(settings: dict[str, Any]) -> str:
    """Format settings for a message, e.g. "repetition_penalty=1.05, bad_words_ids"."""
    return ", ".join(f"{name}={value}" if len(str(value)) <= SHORT else name for name, value in settings.items())
