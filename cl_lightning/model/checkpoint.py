"""Load a language model whole, or say in one line why not: no weight drawn at random, no head of another kind of model,
no adapter that comes with it.

transformers fills what a checkpoint lacks with fresh random weights, and attaches a PEFT adapter that lies beside it.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import cached_file

from cl_lightning.common.errors import ConfigError

#: What follows "For" in the names of architectures that generate text.
GENERATES = ("CausalLM", "ConditionalGeneration", "Seq2SeqLM", "TextToText", "Generation")
#: How heads that do not generate text are called in checkpoints, below the model's prefix: by their kind, or as a
#: matrix at the top, where a language model has its output head.
OTHER_HEAD = re.compile(
    r"(score|qa_outputs|logits_proj|(sequence_)?summary|(v|rm|\w*value)_head|\w*(classif|reward|regress|rank)\w*)\."
    r"|[^.\d]+\.weight$"
)


def stored_file(source: str, file: str, revision: str | None = None) -> Path | None:
    """A file of a model folder or of a hub model; None where there is none, or no such model."""
    try:
        found = cached_file(source, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled):
        return None
    return Path(found) if found else None


def refuse_adapter(name: str, source: str, revision: str | None = None) -> None:
    """See that no PEFT adapter comes with the model at `source`.

    Raises:
        ConfigError: one does.
    """
    found = stored_file(source, "adapter_config.json", revision)
    if found is None:
        return
    base = _base_of(found)
    alone = f"name its base alone ({base})" if base else "name its base alone"
    raise ConfigError(
        f"model.backbone.name: {name} comes with a PEFT adapter (adapter_config.json) that would be attached; "
        f"merge it first (peft's merge_and_unload, then save_pretrained to a new folder), or {alone}, without that file"
    )


def _base_of(adapter: Path) -> str | None:
    """The base model that an adapter's configuration names, if it can be read."""
    try:
        named = json.loads(adapter.read_bytes())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return named if isinstance(named, str) else None


def load_whole(name: str, source: str, **options: Any) -> PreTrainedModel:
    """`from_pretrained` of a decoder, or of an encoder-decoder, whose every weight comes from the checkpoint.

    Args:
        name: what the user calls it.
        source: folder or hub name.
        options: of `from_pretrained`.

    Raises:
        ConfigError: weights are missing or of another shape, or it is another kind of model.
    """
    described = {k: v for k, v in options.items() if k in ("revision", "trust_remote_code", "gguf_file")}
    config = AutoConfig.from_pretrained(source, **described)
    _check_kind(name, config)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        llm, found = kind.from_pretrained(source, **options, output_loading_info=True, ignore_mismatched_sizes=True)
    except RuntimeError as error:
        if "conversion of the weights" not in str(error):
            raise
        _refuse(f"the checkpoint of {name} lacks keys of experts or of parts of layers, or has them in other shapes")
    missing, unexpected = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    missing = [key for key in missing if not _by_formula(llm, key)]
    if missing:
        instead = f" (it has {_some(unexpected)})" if unexpected else ""
        _refuse(f"the checkpoint of {name} lacks weights, which would be drawn at random: {_some(missing)}{instead}")
    if wrong := sorted(f"{key} {tuple(held)}, not {tuple(need)}" for key, held, need in found["mismatched_keys"]):
        _refuse(f"the checkpoint of {name} has weights of other shapes than its configuration says: {_some(wrong)}")
    head = llm.get_output_embeddings()
    if head is not None and head.weight is llm.get_input_embeddings().weight:
        other = [key for key in unexpected if OTHER_HEAD.match(key.removeprefix(f"{llm.base_model_prefix}."))]
        if other:
            _refuse(
                f"the checkpoint of {name} has the head of another kind of model, {_some(other)}, and no output head"
            )
        # T5's kind is always tied where the head's weights are missing.
        if PreTrainedConfig.get_config_dict(source, **described)[0].get("tie_word_embeddings") is False:
            _refuse(f"the checkpoint of {name} lacks the output head, which its configuration says is not tied")
    return llm


def _check_kind(name: str, config: PreTrainedConfig) -> None:
    """Refuse what its own configuration calls another kind of model."""
    declared = config.architectures or []
    tasks = [architecture.rpartition("For") for architecture in declared]
    if tasks and all(word and not task.startswith(GENERATES) for _, word, task in tasks):
        _refuse(f"{name} is a {declared[0]}, whose head is not a language model's")
    whole = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if not config.is_encoder_decoder and whole in declared and type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        _refuse(f"{name} is a {whole}, an encoder-decoder, but its configuration says is_encoder_decoder: false")
    known = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if config.is_encoder_decoder else MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) not in known and not getattr(config, "auto_map", None):
        _refuse(f"{name} is a {(declared or [config.model_type])[0]}, of which transformers has no language model")


def _by_formula(llm: PreTrainedModel, key: str) -> bool:
    """Whether a parameter is not drawn but computed, as sinusoids of positions are."""
    return "Sinusoidal" in type(llm.get_submodule(key.rpartition(".")[0])).__name__


def _some(names: Sequence[str]) -> str:
    """The first three of some names, and how many there are more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _refuse(why: str) -> NoReturn:
    raise ConfigError(f"model.backbone.name: {why}; name a whole checkpoint of a language model")
