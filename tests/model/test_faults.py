"""Model folders with a fault: one line that names the model, the file and the cause, before a run folder exists."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import nn

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.lfs import POINTER
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.faults import explained
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.random_llama import random_tokenizer
from tests.commands.test_cli import configs, launch
from tests.families import BART, FAMILIES, make, save

LFS = POINTER + b"/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(FAMILIES["Llama"](), tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str, share: float) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return change


def pickled(left: float | bytes) -> Callable[[Path], object]:
    """The weights in PyTorch's own format, of which a share is left; or something else in their place."""

    def fault(folder: Path) -> None:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        if isinstance(left, bytes):
            (folder / "pytorch_model.bin").write_bytes(left)
        else:
            cut("pytorch_model.bin", left)(folder)

    return fault


def without(*names: str) -> Callable[[Path], object]:
    return lambda folder: [path.unlink() for name in names for path in folder.glob(name)]


def shards(folder: Path) -> list[Path]:
    (folder / "model.safetensors").unlink()
    make(FAMILIES["Llama"]()).save_pretrained(folder, max_shard_size="30KB")
    return sorted(folder.glob("model-*"))


def not_finite(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def python_only(folder: Path) -> None:
    without("token*", "chat*")(folder)
    tf.ByT5Tokenizer().save_pretrained(folder)


def no_end(folder: Path) -> None:
    tokenizer = random_tokenizer()
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.chat_template = None
    without("token*", "chat*")(folder)
    tokenizer.save_pretrained(folder)


def quantised(**settings: object) -> Callable[[Path], object]:
    return lambda folder: edit(folder / "config.json", quantization_config=settings)


#: Fault -> how to make it, and what the line says of the file and the cause.
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pointer for weights": (write("model.safetensors", LFS), "model.safetensors is a Git LFS pointer, .*lfs pull"),
    "a pointer for pickled weights": (pickled(LFS), "pytorch_model.bin is a Git LFS pointer"),
    "a pointer for a shard": (lambda f: shards(f)[1].write_bytes(LFS), r"model-00002-of-0000\d.safetensors is a Git"),
    "a pointer for the tokenizer": (write("tokenizer.json", LFS), "tokenizer in .*: tokenizer.json is a Git LFS"),
    "a cut header": (cut("model.safetensors", 0.01), "model.safetensors is cut or damaged .*header"),
    "cut weights": (cut("model.safetensors", 0.5), "model.safetensors is cut or damaged .*not fully covered"),
    "weights of PyTorch, cut": (pickled(0.5), "pytorch_model.bin is cut or damaged; copy it again"),
    "a page for weights of PyTorch": (pickled(b"<html>no</html>"), "pytorch_model.bin is cut or damaged"),
    "a missing shard": (lambda f: shards(f)[1].unlink(), r"index.json names model-00002-of-0000\d.safetensors, not in"),
    "no weights": (without("model.safetensors"), "there are no weights"),
    "no tokenizer": (without("token*"), r"there is no tokenizer \(tokenizer.json\)"),
    "a cut tokenizer": (cut("tokenizer.json", 0.5), "tokenizer.json is no valid JSON"),
    "nothing": (without("*"), "there is no config.json"),
    "a cut configuration": (cut("config.json", 0.3), "config.json is no valid JSON"),
    "a list for a configuration": (write("config.json", b"[1]"), "config.json holds no JSON object"),
    "a value of another type": (lambda f: edit(f / "config.json", hidden_size="big"), "'hidden_size' expected int"),
    "an unknown type": (lambda f: edit(f / "config.json", model_type="nosuch"), "model type `nosuch`"),
    "an unknown activation": (
        lambda f: edit(f / "config.json", hidden_act="gelu9"), "config.json: hidden_act is 'gelu9', which transformers",
    ),
    "an unknown kind of positions": (
        lambda f: edit(f / "config.json", rope_parameters={"rope_type": "yarnn", "rope_theta": 1e4, "factor": 2.0}),
        "config.json: rope_parameters.rope_type is 'yarnn', which transformers",
    ),
    "positions without a factor": (
        lambda f: edit(f / "config.json", rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}),
        "KeyError: .Missing required keys in `rope_parameters`",
    ),
    "cut generation settings": (cut("generation_config.json", 0.3), "generation_config.json is no valid JSON"),
    "an unknown cache": (
        lambda f: edit(f / "generation_config.json", cache_implementation="nosuch"), "Invalid `cache_implementation`",
    ),
    "weights of GPTQ": (quantised(quant_method="gptq", bits=4), "stored quantised by gptq, which cannot be adapted"),
    "weights of another kind": (quantised(quant_method="nosuch"), "stored quantised by nosuch"),
    "weights in 4 bits": (quantised(quant_method="bitsandbytes", load_in_4bit=True), "load_in_4bit=true$"),
    "weights that are not finite": (not_finite, "the logits of .* are not finite"),
    "a tokenizer in Python": (python_only, "ByT5Tokenizer, is in Python alone"),
    "no end token": (no_end, "has no end token, so that no answer would end; name one as eos_token"),
}  # fmt: skip


def loaded(folder: Path, **options: object) -> ContinualLM:
    module = ContinualLM(Backbone(str(folder), dtype="float32", **options))
    module.load(module.backbone.load_tokenizer())
    return module


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_with_model_file_and_cause(fault: str, folder: Path) -> None:
    change, expected = FAULTS[fault]
    change(folder)
    with pytest.raises(ConfigError, match=expected) as error:
        loaded(folder)
    line = str(error.value)
    assert line.startswith("model.backbone.name: ") and str(folder) in line and "\n" not in line and len(line) < 500


def test_the_same_folder_without_a_fault_is_loaded(folder: Path) -> None:
    assert loaded(folder).vocabulary == 259


@pytest.mark.parametrize(
    ("name", "expected"), [("nosuch", "is not supported"), ("flash_attention_2", "FlashAttention2 .*installed")]
)
def test_an_attention_implementation_that_is_not_there(name: str, expected: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=rf"the model in .* cannot be used: .*{expected}"):
        loaded(folder, attn_implementation=name)


def test_settings_that_cannot_generate_are_found_before_scoring(folder: Path) -> None:
    edit(folder / "generation_config.json", repetition_penalty="x")
    assert loaded(folder), "neutral settings leave it out"
    with pytest.raises(ConfigError, match="`penalty` has to be a strictly positive float"):
        loaded(folder, generation="model")
    edit(folder / "generation_config.json", repetition_penalty=1.5, cache_implementation="quantized")
    assert loaded(folder, generation="model").llm.generation_config.cache_implementation is None


def test_a_pad_token_beyond_the_embedding_is_replaced(folder: Path) -> None:
    """As in models whose tokenizer got a pad token later: index out of range with it."""
    tokenizer = random_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    module = loaded(folder)
    assert module.tokenizer.pad_token_id == 2 and len(module.tokenizer) > module.vocabulary


def test_errors_that_are_lines_already_and_interrupts_pass() -> None:
    for error in (ConfigError("a line"), KeyboardInterrupt(), MemoryError()):
        with pytest.raises(type(error)), explained("m", "model", None, False):
            raise error
    with (
        pytest.raises(ConfigError, match=r"the model in m cannot be used: KeyError: 'x'$"),
        explained("m", "model", None, False),
    ):
        raise KeyError("x")


# --- before a run folder exists ----------------------------------------------------------------------------


def larger_tokenizer(folder: Path) -> None:
    tokenizer = random_tokenizer()
    tokenizer.add_tokens(["the"])
    tokenizer.save_pretrained(folder)


def learnt_positions(folder: Path) -> None:
    save(tf.BartConfig(**{**BART, "max_position_embeddings": 64}), folder)


def templates(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    edit(folder / "tokenizer_config.json", chat_template=[{"name": n, "template": n} for n in ("rag", "tool")])


RUNS: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights cut": (cut("model.safetensors", 0.5), "model.safetensors is cut or damaged"),
    "a tokenizer larger than the embedding": (larger_tokenizer, "has token 259, but the model's embedding"),
    "an encoder with fewer positions": (learnt_positions, r"needs 120 tokens .*the model's context is 64"),
    "templates without a default": (templates, r"model has several chat templates \(rag, tool\), none"),
    "a broken template": (write("chat_template.jinja", b"{% for"), "model's chat template cannot write a conversation"),
}  # fmt: skip


@pytest.mark.parametrize("fault", RUNS)
def test_a_run_leaves_no_folder(fault: str, folder: Path, tmp_path: Path) -> None:
    change, expected = RUNS[fault]
    change(folder)
    options = (
        "--data.max_prompt_tokens=120",
        "--data.train_samples=20",
        "--boundary.init=null",
        "--boundary.memory=null",
    )
    result = launch(
        *configs("smoke"), f"--model.backbone.name={folder}", f"--sequence.run_dir={tmp_path / 'run'}", *options
    )
    assert result.code == 2 and not (tmp_path / "run").exists()
    assert re.search(expected, result.line), result.line


def test_positions_of_encoder_and_decoder_are_counted_apart(tmp_path: Path) -> None:
    module = loaded(save(tf.BartConfig(**BART), tmp_path))
    assert module.context == 512 and module.positions(400, 300) == 400
    assert loaded(save(FAMILIES["T5"](), tmp_path / "t5")).context is None
    assert isinstance(module.llm.get_input_embeddings(), nn.Embedding)


def test_a_home_in_run_dir_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cl_lightning.sequence.settings import SequenceSettings

    monkeypatch.setenv("HOME", str(tmp_path))
    settings = SequenceSettings(run_dir="~/one", continue_from="~/two")
    assert (settings.run_dir, settings.continue_from) == (str(tmp_path / "one"), str(tmp_path / "two"))
