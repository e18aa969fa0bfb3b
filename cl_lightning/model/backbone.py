"""Load the LLM and its tokenizer from an embedded package, a GGUF file, a local folder or the hub.

A run never writes the frozen base to disk but reloads it from its source; `fingerprint` is its content hash. The
embedded model and GGUF files are converted once into a cache of bf16 safetensors.
"""

import hashlib
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from cl_lightning.common.choices import check_choices
from cl_lightning.common.distributed import local_rank
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.paths import in_home
from cl_lightning.data.end_tokens import trained_end
from cl_lightning.model.checkpoint import load_whole, model_kind, read_config, refuse_adapter
from cl_lightning.model.faults import TOKENIZERS, explained
from cl_lightning.model.generation_settings import effective_settings, neutral_settings
from cl_lightning.model.gguf import converted, embedded
from cl_lightning.model.hub import model_file
from cl_lightning.model.moved_base import BaseMissing
from cl_lightning.model.names import EMBEDDED, RANDOM
from cl_lightning.model.precision import held_dtype, keep_float64, widened
from cl_lightning.model.random_llama import random_config, random_model, random_tokenizer
from cl_lightning.model.try_out import try_out


@dataclass
class Backbone:
    """The frozen LLM, its source and its precision.

    Attributes:
        name: "smollm2-135m-instruct" (embedded), "random-llama" (tiny, untrained, for tests), a folder, a
            .gguf file, or a hub name.
        dtype: of the frozen base. Adapters are always float32 or wider. bfloat16 is held in float32 on a machine
            without bf16 units (see `model.precision.held_dtype`); the run's first lines then state it. float64 is
            meant for comparisons with exact references: norms, softmaxes and position angles are then float64 too.
        load_in_4bit: bitsandbytes nf4 with double quantisation; `dtype` is then the compute dtype.
        gradient_checkpointing: trade a second forward pass for activation memory.
        attn_implementation: as in transformers ("sdpa", "eager", "flash_attention_2"); null: its default.
        revision: of a hub model.
        trust_remote_code: run code that comes with a model. If false, such models are refused.
        config: overrides of the configuration of "random-llama", e.g. {hidden_size: 64}.
        generation: "neutral": greedy decoding in scoring takes the most likely token each time; "model": it follows
            the model's own generation settings (repetition_penalty, suppress_tokens, forced_bos_token_id, ..).
            Likelihoods do not depend on it. The run's first lines state the choice if the model has such settings.
        own_generation: not an option: the model's own generation settings by name, known once it is loaded.
    """

    name: str = "smollm2-135m-instruct"
    dtype: Literal["bfloat16", "float16", "float32", "float64"] = "bfloat16"
    load_in_4bit: bool = False
    gradient_checkpointing: bool = False
    attn_implementation: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    generation: Literal["neutral", "model"] = "neutral"
    own_generation: dict[str, Any] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        check_choices(Backbone, (), vars(self))

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer, with the end token as pad token if it has none.

        Raises:
            ConfigError: as `load`.
        """
        if self.name == RANDOM:
            return random_tokenizer()
        source = self._source()
        with self._explained("tokenizer", source):
            tokenizer = AutoTokenizer.from_pretrained(source, **self._hub())
            end = trained_end(tokenizer)
        if not tokenizer.is_fast:
            raise ConfigError(
                f"model.backbone.name: the tokenizer of {self.name}, a {type(tokenizer).__name__}, is in Python alone "
                "and cannot say where a token stands in its text; choose a model with a tokenizer.json"
            )
        if end is None:
            raise ConfigError(
                f"model.backbone.name: the tokenizer of {self.name} has no end token, so that no answer would end; "
                "name one as eos_token in its tokenizer_config.json"
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(end)
        return tokenizer

    def has_tokenizer(self) -> bool:
        """Return whether there are files of a tokenizer. Raises ConfigError as `load`."""
        source = self.name == RANDOM or self._source()
        return source is True or any(model_file(source, file, self.revision) for file in TOKENIZERS)

    def encoder_decoder(self) -> bool:
        """Return whether the model is an encoder-decoder, by its configuration. Raises ConfigError as `load`."""
        return self.name != RANDOM and bool(self._configuration(1).is_encoder_decoder)

    def load(self, vocabulary: int) -> PreTrainedModel:
        """Load the frozen LLM onto the CPU. `vocabulary`: tokenizer size, for the random model.

        Raises:
            ConfigError: the name is not a folder, file, package or reachable hub model, not a complete language
                model, or a model with code of its own that is not trusted.
        """
        dtype = getattr(torch, self.dtype)
        random = self.name == RANDOM
        source = "" if random else self._source()
        # Position angles are computed when the model is built, so build a float64 model widened.
        with widened() if dtype == torch.float64 else nullcontext():
            llm = random_model(vocabulary, self.config).to(dtype) if random else self._load_pretrained(dtype, source)
        self._prepare(llm, dtype)
        if self.load_in_4bit:
            _keep_4bit_unpacked(llm)
        if not self.load_in_4bit:
            llm.to(held_dtype(dtype))
        with self._explained("model", source):
            try_out(self.name, llm)
        self._checkpoint(llm)
        return llm

    def shapes(self, vocabulary: int, held: torch.dtype) -> PreTrainedModel:
        """Make the frozen LLM from its configuration, without weights; inside `model.shapes.without_data`.

        Args:
            vocabulary: as in `load`.
            held: dtype of the weights. A 4-bit base is made as a dense one.

        Raises:
            ConfigError: as `load`.
        """
        config = self._configuration(vocabulary)
        attention = {} if self.attn_implementation is None else {"attn_implementation": self.attn_implementation}
        kind = model_kind(config)
        with widened() if held == torch.float64 else nullcontext():
            llm = kind.from_config(config, dtype=held, trust_remote_code=self.trust_remote_code, **attention)
        self._prepare(llm, held)
        self._checkpoint(llm)
        return llm

    def _prepare(self, llm: PreTrainedModel, dtype: torch.dtype) -> None:
        """Freeze a model, and let it compute and generate as the options say."""
        if dtype == torch.float64:
            keep_float64(llm)
        llm.requires_grad_(False)
        llm.config.use_cache = True
        self.own_generation = effective_settings(llm.generation_config)
        if self.generation == "neutral":
            llm.generation_config = neutral_settings(llm.generation_config)
        llm.generation_config.cache_implementation = None  # scoring chooses its own

    def _checkpoint(self, llm: PreTrainedModel) -> None:
        if self.gradient_checkpointing:
            llm.activation_checkpointing_enable({"use_reentrant": False})

    def _configuration(self, vocabulary: int) -> PreTrainedConfig:
        if self.name == RANDOM:
            return random_config(vocabulary, self.config)
        source = self._source()
        with self._explained("model", source):
            return read_config(self.name, source, self.load_in_4bit, **self._hub())

    def fingerprint(self, llm: PreTrainedModel) -> str:
        """The content hash by which a run knows this base; `llm`: from `load`, not yet adapted. See `fingerprint`."""
        return fingerprint(llm, None if self.load_in_4bit else getattr(torch, self.dtype))

    def _load_pretrained(self, dtype: torch.dtype, source: str) -> PreTrainedModel:
        options: dict[str, Any] = {"dtype": dtype, **self._hub()}
        if self.attn_implementation is not None:
            options["attn_implementation"] = self.attn_implementation
        if self.load_in_4bit:
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
            if torch.accelerator.is_available():
                # Weights are quantised while loading, so on this process's device (not tested on several GPUs).
                options["device_map"] = {"": torch.device(torch.accelerator.current_accelerator(), local_rank())}
        with self._explained("model", source):
            return load_whole(self.name, source, **options)

    def _explained(self, part: str, source: str) -> AbstractContextManager[None]:
        file = model_file(source, "config.json", self.revision) if source else None
        folder = Path(source) if source and Path(source).is_dir() else file and file.parent
        return explained(self.name, part, folder, self.trust_remote_code)

    def _hub(self) -> dict[str, Any]:
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    def _source(self) -> str:
        """Return the argument of from_pretrained, converting a GGUF file on first use."""
        if self.name in EMBEDDED:
            with explained(self.name, "model", None, self.trust_remote_code):
                return str(embedded(self.name))
        path = in_home(self.name, "model.backbone.name")
        if path.suffix == ".gguf" and path.exists():
            with explained(self.name, "model", None, self.trust_remote_code):
                return str(converted(path))
        source = str(path) if path.is_dir() else self.name
        config = model_file(source, "config.json", self.revision)
        refuse_adapter(self.name, source, self.revision)
        if path.is_dir() or config:
            return source
        raise BaseMissing(f"model.backbone.name: {self.name!r} has no config.json; name a model for transformers")


def _keep_4bit_unpacked(llm: PreTrainedModel) -> None:
    # On CPUs with AVX512-BF16 evaluation would repack 4-bit weights in place for good, after which training gives the
    # adapters no gradient, without an error.
    import bitsandbytes as bnb

    for module in llm.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def fingerprint(llm: PreTrainedModel, dtype: torch.dtype | None = None) -> str:
    """Hash the base's parameters (names, shapes, bytes) to 16 hex digits.

    `dtype`: floats are cast to it before hashing, so that a bf16 base held in float32 has the same hash.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(llm.state_dict().items()):
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def set_threads(processes: int, threads: int | None) -> None:
    """Set the CPU threads of this process, by default its share of the cores (more slow down gloo ranks)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or max(1, cores // processes))
