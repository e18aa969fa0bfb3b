"""What of a model's own generation settings changes greedy decoding, and settings without any of it."""

from typing import Any

from transformers import GenerationConfig

#: Settings that change which token is greedily taken next or where an answer ends: name -> value that changes nothing.
#: Sampling and beam search settings change nothing here.
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
#: What every model needs: which tokens begin, end and pad.
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
#: Longer values are left out where settings are told.
SHORT = 24


def that_matter(settings: GenerationConfig) -> dict[str, Any]:
    """The settings that greedy decoding follows and that are not neutral, by name."""
    own = {name: getattr(settings, name, None) for name in NEUTRAL}
    return {name: value for name, value in own.items() if value not in (None, [], {}, NEUTRAL[name])}


def tokens_only(settings: GenerationConfig) -> GenerationConfig:
    """Settings with these tokens and nothing else: greedy is then the most likely token each time."""
    return GenerationConfig(**{name: getattr(settings, name) for name in TOKENS})


def told(own: dict[str, Any]) -> str:
    """Settings in words, e.g. "repetition_penalty=1.05, bad_words_ids"."""
    return ", ".join(f"{name}={value}" if len(str(value)) <= SHORT else name for name, value in own.items())
