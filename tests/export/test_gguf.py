"""A run as a GGUF file, read again by transformers: equal logits, tokens and greedy answers. llama.cpp is not run."""

from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from cl_lightning.common.errors import ConfigError
from cl_lightning.data.prompt import PromptEncoder
from cl_lightning.data.sample.tasks import load as sample
from cl_lightning.evaluation.generate import generate
from cl_lightning.export import gguf
from cl_lightning.export.gguf_tokenizer import read_vocabulary
from cl_lightning.export.modelfile import TrainedPrompt, modelfile
from cl_lightning.export.trained import Request, Trained
from cl_lightning.model.random_llama import random_tokenizer
from cl_lightning.sequence.load import load_run
from tests.export.conftest import Runs
from tests.export.test_peft import logits


def exported(run: Path, out: Path, **options: object) -> list[str]:
    out.mkdir()
    return gguf.export(Request(run, **options), out)


def loaded(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    llm = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf.FILE, dtype=torch.float32).eval()
    return llm, AutoTokenizer.from_pretrained(folder, gguf_file=gguf.FILE)


@pytest.fixture(scope="module")
def folder(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf") / "out"
    exported(runs("bpe"), out)
    return out


def test_logits_and_greedy_answers_are_equal(folder: Path, runs: Runs) -> None:
    module = load_run(runs("bpe")).module
    llm, tokenizer = loaded(folder)
    torch.testing.assert_close(logits(llm), logits(module.llm), rtol=1e-5, atol=1e-5)
    encoder = PromptEncoder(module.tokenizer, 300, "")
    prompts = [encoder.prompt(example, 0.5)[0] for example in sample("FOMC").test[:4]]
    ours = generate(module.llm, module.tokenizer, prompts, 16, 4)
    assert len(set(ours)) > 1
    assert generate(llm, tokenizer, prompts, 16, 4) == ours


def test_without_the_order_of_rows_they_are_not(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monkeypatch.setattr(gguf, "neighbours", lambda matrix, heads: matrix)
    exported(runs("bpe"), tmp_path / "out")
    wrong, _ = loaded(tmp_path / "out")
    assert (logits(wrong) - logits(load_run(runs("bpe")).module.llm)).abs().max() > 1e-2


def test_tokens_and_template_are_those_of_training(folder: Path, runs: Runs) -> None:
    base = Trained(Request(runs("bpe"))).module.backbone.load_tokenizer()
    _, tokenizer = loaded(folder)
    assert len(base.get_vocab()) > 300
    text = [{"role": "user", "content": "Rates will rise by 25, they're  told.\n\nÄrger 数据"}]
    for read in (tokenizer, base):
        assert read.chat_template == base.chat_template
    ids = [t.apply_chat_template(text, add_generation_prompt=True, return_dict=False) for t in (tokenizer, base)]
    assert ids[0] == ids[1]
    assert [tokenizer.pad_token_id, tokenizer.eos_token_id] == [base.pad_token_id, base.eos_token_id]
    fields = GGUFReader(folder / gguf.FILE).fields
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False, "the template writes it"
    assert fields["tokenizer.ggml.eot_token_id"].contents() == base.convert_tokens_to_ids("<|end|>")


def test_matrices_are_held_as_asked(runs: Runs, tmp_path: Path) -> None:
    for dtype, held in (("bfloat16", "BF16"), ("float16", "F16")):
        exported(runs("bpe"), tmp_path / dtype, dtype=dtype)
        kinds = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / dtype / gguf.FILE).tensors}
        assert kinds.pop("output_norm.weight") == "F32"
        assert {kind for name, kind in kinds.items() if "norm" not in name} == {held}
        llm, _ = loaded(tmp_path / dtype)
        ours = load_run(runs("bpe")).module.llm.model.embed_tokens.weight
        torch.testing.assert_close(llm.model.embed_tokens.weight, ours.to(getattr(torch, dtype)).float())


def test_rows_of_a_head_are_put_side_by_side() -> None:
    rows = torch.arange(8)[:, None]
    assert gguf.neighbours(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_the_modelfile_writes_prompts_as_in_training(folder: Path, runs: Runs) -> None:
    encoder = PromptEncoder(load_run(runs("bpe"), 0).module.tokenizer, 300, "")
    lines = (folder / "Modelfile").read_text()
    template = lines.split('TEMPLATE """', 1)[1].split('"""', 1)[0]
    assert template.replace("{{ .Prompt }}", "Well?") == encoder.chat.text("Well?")
    assert lines.startswith("FROM ./merged.gguf\n")
    assert 'PARAMETER stop "<|end|>"' in lines


def test_without_a_template_the_tokenizer_begins_the_prompt(runs: Runs) -> None:
    trained = Trained(Request(runs("bpe")))
    llm, tokenizer = trained.base()
    assert not TrainedPrompt(trained, llm, tokenizer).bos
    tokenizer.chat_template = None
    prompt = TrainedPrompt(trained, llm, tokenizer)
    assert b'TEMPLATE """{{ .Prompt }}"""' in modelfile("x.gguf", prompt)
    assert not prompt.bos
    begin = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    assert TrainedPrompt(trained, llm, tokenizer).bos


def test_what_go_would_read_as_its_own_is_quoted(runs: Runs) -> None:
    trained = Trained(Request(runs("bpe")))
    prompt = TrainedPrompt(trained, *trained.base())
    prompt.before = 'say {{ x }} or """'
    lines = modelfile("x.gguf", prompt).decode()
    assert 'TEMPLATE """say {{ "{{" }} x }} or ""{{ "\\"" }}{{ .Prompt }}' in lines


@pytest.mark.parametrize(("kind", "message"), [
    ("t5", r"models of type t5 are not supported; use --format=merged, then llama.cpp's convert_hf_to_gguf.py"),
    ("folded", r"tokenizer \(TokenizersBackend, BPE\) is not supported"),
])  # fmt: skip
def test_what_is_not_written_is_refused_by_name(kind: str, message: str, runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        exported(runs(kind), tmp_path / "out")


def test_more_tokens_than_embeddings_are_refused(runs: Runs) -> None:
    tokenizer = Trained(Request(runs("bpe"))).module.backbone.load_tokenizer()
    with pytest.raises(ConfigError, match="tokens up to"):
        read_vocabulary(tokenizer, len(tokenizer) - 1)
    random = random_tokenizer()
    with pytest.raises(ConfigError, match="not supported"):
        read_vocabulary(random, len(random))


@pytest.mark.parametrize(("option", "value"), [
    ("rope_parameters", {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}),
    ("attention_bias", True),
    ("hidden_act", "gelu"),
])  # fmt: skip
def test_other_llamas_are_refused(option: str, value: object, runs: Runs) -> None:
    llm, _ = Trained(Request(runs("folded"))).base()
    gguf.check_architecture(llm)
    setattr(llm.config, option, value)
    with pytest.raises(ConfigError, match=r"not supported; use --format=merged"):
        gguf.check_architecture(llm)
