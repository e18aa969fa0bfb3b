"""A run as one plain model of transformers: equal logits, the run's dtype, what belongs to it beside the weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel

from cl_lightning.common.errors import ConfigError
from cl_lightning.data.prompt import PromptEncoder
from cl_lightning.evaluation.generate import generate
from cl_lightning.export.merged import export, merge_into
from cl_lightning.export.trained import Request, Trained
from cl_lightning.sequence.load import load_run
from tests.commands.test_cli import launch
from tests.export.conftest import KINDS, Runs
from tests.export.test_peft import logits

FLOAT32 = ("folded", "displaced", "baked", "core", "continued", "t5")


def exported(run: Path, out: Path, **options: object) -> list[str]:
    out.mkdir()
    return export(Request(run, **options), out)


def loaded(folder: Path, kind: str = "") -> PreTrainedModel:
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    return auto.from_pretrained(folder).eval()


@pytest.mark.parametrize("kind", FLOAT32)
def test_logits_are_equal(kind: str, runs: Runs, tmp_path: Path) -> None:
    output = exported(runs(kind), tmp_path / "out")
    assert "merged in float32 without loss from rounding" in output
    ours = logits(load_run(runs(kind)).module.llm)
    torch.testing.assert_close(logits(loaded(tmp_path / "out", kind)), ours, rtol=1e-5, atol=1e-5)


def test_the_base_alone(runs: Runs, tmp_path: Path) -> None:
    """Negative control too: with no branch in it, it is the base and not the model."""
    run = runs("displaced")
    exported(run, tmp_path / "out", after="0")
    llm = loaded(tmp_path / "out")
    torch.testing.assert_close(logits(llm), logits(load_run(run, 0).module.llm), rtol=0, atol=0)
    assert (logits(llm) - logits(load_run(run).module.llm)).abs().max() > 1e-2


def test_a_gated_base_alone_is_no_gated_model(runs: Runs, tmp_path: Path) -> None:
    exported(runs("gated"), tmp_path / "base", after="0")
    with pytest.raises(ConfigError, match=r"GainLoRA weighs its branches by the prompt.*--format=native"):
        exported(runs("gated"), tmp_path / "out")


def test_cast_once_to_the_runs_dtype(runs: Runs, tmp_path: Path) -> None:
    run = runs("bfloat16")
    output = exported(run, tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {t.dtype for t in weights.values()} == {torch.bfloat16}
    assert loaded(tmp_path / "out").dtype == torch.bfloat16
    trained = Trained(Request(run))
    llm, _ = trained.base()
    updates = trained.updates(llm)
    lost = {}
    for name, update in updates.items():
        whole = llm.get_submodule(name).weight + update.dense().float()
        assert torch.equal(weights[f"{name}.weight"], whole.bfloat16()), name
        lost[name] = float((whole.bfloat16() - whole).norm() / update.dense().norm())
    worst = max(lost, key=lambda name: lost[name])
    assert f"at most {lost[worst]:.1e} of what the branches added to a layer" in output[0]
    assert worst in output[0]


def test_another_dtype_and_a_rank(runs: Runs, tmp_path: Path) -> None:
    output = exported(runs("folded"), tmp_path / "out", dtype="float16", rank=1)
    assert "recompressed to rank 1" in output[0]
    assert loaded(tmp_path / "out").dtype == torch.float16


def test_answers_as_the_run_does(runs: Runs, tmp_path: Path) -> None:
    """Template, end tokens and generation settings of the folder alone give the run's greedy answers."""
    run, prompts = runs("folded"), ["How much is 3 + 4?", "Is the tone hawkish?"]
    exported(run, tmp_path / "out")
    module = load_run(run).module
    encoder = PromptEncoder(module.tokenizer, 100, "")
    llm, tokenizer = loaded(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.pad_token_id == module.tokenizer.pad_token_id
    for prompt in prompts:
        text = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(text, add_generation_prompt=True, return_dict=False)
        assert ids == encoder.tokenizer(encoder.chat.text(prompt), add_special_tokens=False).input_ids
        (ours,) = generate(module.llm, module.tokenizer, [ids], 12, 1)
        made = llm.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
        assert ours
        assert tokenizer.decode(made, skip_special_tokens=True) == ours
    assert llm.generation_config.eos_token_id == 2


def test_a_weight_that_layers_share_is_refused(runs: Runs) -> None:
    trained = Trained(Request(runs("folded")))
    llm, _ = trained.base()
    updates = trained.updates(llm)
    layers = llm.model.layers
    layers[1].self_attn.q_proj.weight = layers[0].self_attn.q_proj.weight
    with pytest.raises(ConfigError, match="other layers share this weight"):
        merge_into(llm, updates, torch.float32)


def test_a_base_that_is_not_in_4_bits_is_not_dequantised(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--dequantize: .* has no 4-bit base; leave it out"):
        exported(runs("folded"), tmp_path / "none", dequantize=True)


def test_a_4bit_base_is_dequantised_by_choice(runs: Runs, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    exported(runs("folded"), tmp_path / "model", after="0")
    options = (f"--model.backbone.name={tmp_path / 'model'}", "--model.backbone.load_in_4bit=true")
    run = tmp_path / "run"
    assert launch(*KINDS["stacked"], *options, f"--sequence.run_dir={run}").code == 0
    with pytest.raises(ConfigError, match=r"4 bits.*--dequantize"):
        exported(run, tmp_path / "none")
    output = exported(run, tmp_path / "out", dequantize=True)
    assert "dequantised" in output[0]
    ours, llm = logits(load_run(run).module.llm), loaded(tmp_path / "out")
    assert llm.dtype == torch.float32
    torch.testing.assert_close(logits(llm), ours, rtol=1e-3, atol=1e-3)
    assert (logits(loaded(tmp_path / "model")) - ours).abs().max() > 1e-1
