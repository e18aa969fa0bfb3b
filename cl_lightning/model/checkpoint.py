"""Load complete language models and refuse all others: missing weights, the head of another kind of model, an adapter.

transformers initialises missing weights at random and attaches a PEFT adapter found in the model's folder.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from cl_lightning.common.errors import ConfigError, first_three
from cl_lightning.common.noise import silence_loading
from cl_lightning.model.hub import download_shown, model_file

#: Text after "For" in the names of architectures that generate text.
GENERATES = ("CausalLM", "ConditionalGeneration", "Seq2SeqLM", "TextToText", "Generation")
#: Names in checkpoints, without the model's prefix, of heads that do not generate text: by their kind, or any matrix at
#: the top level, where a language model has its output head.
OTHER_HEAD = re.compile(
    r"(score|qa_outputs|logits_proj|(sequence_)?summary|(v|rm|\w*value)_head|\w*(classif|reward|regress|rank)\w*)\."
    r"|[^.\d]+\.weight$"
)


def refuse_adapter(name: str, source: str, revision: str | None = None) -> None:
    """Raise ConfigError if the model at `source` comes with a PEFT adapter."""
    found = model_file(source, "adapter_config.json", revision)
    if found is None:
        return
    base = _base_of(found)
    alone = f"name its base alone ({base})" if base else "name its base alone"
    raise ConfigError(
        f"model.backbone.name: {name} comes with a PEFT adapter (adapter_config.json) that would be attached; "
        f"merge it first (peft's merge_and_unload, then save_pretrained to a new folder), or {alone}, without that file"
    )


def _base_of(adapter: Path) -> str | None:
    """Return the base model named by an adapter's configuration, or None if that cannot be read."""
    try:
        named = json.loads(adapter.read_bytes())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return named if isinstance(named, str) else None


def load_whole(name: str, source: str, **options: Any) -> PreTrainedModel:
    """Load a decoder or encoder-decoder with `from_pretrained`, requiring every weight from the checkpoint.

    Args:
        name: name of the model in errors.
        source: folder or hub name.
        options: of `from_pretrained`.

    Raises:
        ConfigError: weights are missing or have other shapes, or the model is not a language model.
    """
    described = {k: v for k, v in options.items() if k in ("revision", "trust_remote_code", "gguf_file")}
    config = read_config(name, source, "quantization_config" in options, **described)
    if model_file(source, "generation_config.json", options.get("revision")):
        # The model's own loading ignores a damaged one.
        GenerationConfig.from_pretrained(source, revision=options.get("revision"))
    kind = model_kind(config)
    try:
        with no_bars(), download_shown(source, options.get("revision")):
            llm, found = kind.from_pretrained(source, **options, output_loading_info=True, ignore_mismatched_sizes=True)
    except RuntimeError as error:
        if "conversion of the weights" not in str(error):
            raise
        _refuse(f"the checkpoint of {name} lacks keys of experts or of parts of layers, or has them in other shapes")
    missing, unexpected = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    missing = [key for key in missing if not _by_formula(llm, key)]
    if missing:
        names = first_three(missing) + (f" (it has {first_three(unexpected)})" if unexpected else "")
        _refuse(f"the checkpoint of {name} lacks weights, which would be initialised at random: {names}")
    if wrong := sorted(f"{key} {tuple(held)}, not {tuple(need)}" for key, held, need in found["mismatched_keys"]):
        _refuse(f"the checkpoint of {name} has weights whose shapes contradict its configuration: {first_three(wrong)}")
    head = llm.get_output_embeddings()
    if head is not None and head.weight is llm.get_input_embeddings().weight:
        other = [key for key in unexpected if OTHER_HEAD.match(key.removeprefix(f"{llm.base_model_prefix}."))]
        if other:
            _refuse(
                f"the checkpoint of {name} has the head of another kind of model, {first_three(other)}, "
                "and no output head"
            )
        # Models like T5 tie the head if its weights are missing, whatever the configuration says.
        if PreTrainedConfig.get_config_dict(source, **described)[0].get("tie_word_embeddings") is False:
            _refuse(f"the checkpoint of {name} lacks the output head, which is not tied according to its configuration")
    return llm


def read_config(name: str, source: str, quantized: bool, **described: Any) -> PreTrainedConfig:
    """Read the configuration of a language model.

    Args:
        name, source: as `load_whole`.
        quantized: the model is to be quantised when it is loaded.
        described: options of `from_pretrained` that say where the configuration is.

    Raises:
        ConfigError: the model is not a language model, or its weights are stored quantised.
    """
    config = AutoConfig.from_pretrained(source, **described)
    _check_kind(name, config)
    _check_precision(name, config, quantized)
    return config


#: Class that makes language models -> the configurations it knows; the first that knows one makes its model. Of models
#: that also read images, the text model is used.
DECODERS = {
    AutoModelForCausalLM: MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForImageTextToText: MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
}
ENCODER_DECODERS = {AutoModelForSeq2SeqLM: MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING}


def model_kind(config: PreTrainedConfig) -> type[_BaseAutoModelClass]:
    """Return the class that makes the language model of a configuration; for unknown ones the most usual class."""
    kinds = ENCODER_DECODERS if config.is_encoder_decoder else DECODERS
    return next((kind for kind, known in kinds.items() if type(config) in known), next(iter(kinds)))


@contextmanager
def no_bars() -> Iterator[None]:
    """Show no bars over weights inside, and leave out the library's messages that say nothing."""
    silence_loading()
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _check_kind(name: str, config: PreTrainedConfig) -> None:
    """Raise ConfigError if the configuration declares another kind of model."""
    declared = config.architectures or []
    tasks = [architecture.rpartition("For") for architecture in declared]
    if tasks and all(word and not task.startswith(GENERATES) for _, word, task in tasks):
        _refuse(f"{name} is a {declared[0]}, whose head is not a language model's")
    whole = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if not config.is_encoder_decoder and whole in declared and type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        _refuse(f"{name} is a {whole}, an encoder-decoder, but its configuration says is_encoder_decoder: false")
    kinds = ENCODER_DECODERS if config.is_encoder_decoder else DECODERS
    known = any(type(config) in configurations for configurations in kinds.values())
    if not known and not getattr(config, "auto_map", None):
        _refuse(f"{name} is a {(declared or [config.model_type])[0]}, which transformers has no language model for")


def _check_precision(name: str, config: PreTrainedConfig, asked: bool) -> None:
    """Raise ConfigError if the weights are stored quantised, but for bitsandbytes' 4 bits where those are `asked`."""
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return
    settings = stored if isinstance(stored, dict) else stored.to_dict()
    method = settings.get("quant_method") or "an unknown method"
    if settings.get("load_in_4bit") and "bitsandbytes" in str(method):
        if not asked:
            _refuse(f"the weights of {name} are stored in 4 bits; set model.backbone.load_in_4bit=true", end="")
        return
    _refuse(
        f"the weights of {name} are stored quantised by {method}, which cannot be adapted; name the unquantised model, "
        "if memory is short with model.backbone.load_in_4bit=true",
        end="",
    )


def _by_formula(llm: PreTrainedModel, key: str) -> bool:
    """Return whether a parameter is computed by a formula (sinusoidal positions) rather than trained."""
    return "Sinusoidal" in type(llm.get_submodule(key.rpartition(".")[0])).__name__


def _refuse(why: str, end: str = "; name a complete checkpoint of a language model") -> NoReturn:
    raise ConfigError(f"model.backbone.name: {why}{end}")
