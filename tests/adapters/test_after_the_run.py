"""A model in a script's hands: gated branches never run without gates, and what cannot be saved says so."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as tf

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.gainlora import GainLoRA
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.sapt import SAPTLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.data.collate import training_batch
from cl_lightning.evaluation.generate import generate
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from tests.conftest import random_examples, save_tiny_t5

IDS = torch.arange(5, 25).reshape(2, 10)


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_t5(tmp_path_factory.mktemp("t5"), layers=1, dropout=0.0)


@pytest.fixture(params=["random-llama", "t5"])
def make(request: pytest.FixtureRequest, t5_folder: Path) -> Callable[..., ContinualLM]:
    """A model of `done` finished tasks, all branches far from zero."""

    def build(adapter: AdapterStrategy, done: int = 2) -> ContinualLM:
        name = str(t5_folder) if request.param == "t5" else request.param
        module = ContinualLM(Backbone(name, dtype="float64"), adapter)
        module.load(module.backbone.load_tokenizer())
        for task in range(done):
            module.adapter.begin_task(task, torch.Generator().manual_seed(task))
            for layer in module.adapter.layers.values():
                layer.lora_B.data.normal_(0, 0.3)
            module.adapter.end_task(task)
        return module.eval()

    return build


GATED = {"gainlora": lambda: GainLoRA(IncLoRA(rank=2), width=4), "sapt": lambda: SAPTLoRA(IncLoRA(rank=2), width=4)}
CALLS: dict[str, Callable[[ContinualLM], object]] = {
    "forward": lambda m: m.llm(input_ids=IDS, **({"decoder_input_ids": IDS} if m.encoder_decoder else {})),
    "base model": lambda m: m.llm.base_model(
        input_ids=IDS, **({"decoder_input_ids": IDS} if m.encoder_decoder else {})
    ),
    "generate": lambda m: m.llm.generate(IDS, max_new_tokens=2, pad_token_id=0),
    "our generate": lambda m: generate(m.llm, m.tokenizer, IDS.tolist(), 2, 2),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("strategy", GATED)
def test_gated_branches_without_gates_are_refused_with_what_to_call(
    make: Callable[..., ContinualLM], strategy: str, call: str
) -> None:
    module = make(GATED[strategy]())
    with pytest.raises(
        ConfigError, match=r"the call has no gates: generate with .*own=.*extra=.*answer_logits"
    ) as error:
        CALLS[call](module)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("strategy", GATED)
def test_what_the_refusal_names_works_and_runs_with_gates(make: Callable[..., ContinualLM], strategy: str) -> None:
    module = make(GATED[strategy]())
    extra = module.adapter.forward_kwargs
    encoded = [replace(e, own=(1, len(e.prompt_ids) - 1)) for e in random_examples(4)]
    prompts = [e.prompt_ids for e in encoded]
    seen = []

    def kept(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(extra(inputs)["gates"].detach())
        return {"gates": seen[-1]}

    assert len(generate(module.llm, module.tokenizer, prompts, 3, 4, own=[e.own for e in encoded], extra=kept)) == 4
    longest_first = sorted(encoded, key=lambda e: -len(e.prompt_ids))
    trained = extra(training_batch(longest_first, 0, module.encoder_decoder))["gates"]
    torch.testing.assert_close(seen[0], trained, rtol=1e-10, atol=1e-12)
    batch = training_batch(random_examples(4), 0, module.encoder_decoder)
    with torch.no_grad():
        gated = module.answer_logits(batch)[0]
        module.adapter.forward_kwargs = lambda batch: {"gates": torch.ones_like(extra(batch)["gates"])}
        assert (gated - module.answer_logits(batch)[0]).abs().max() > 1e-3, "negative control: all branches open"


@pytest.mark.parametrize("strategy", GATED)
def test_without_branches_in_place_no_gates_are_needed(make: Callable[..., ContinualLM], strategy: str) -> None:
    module = make(GATED[strategy](), done=0)
    base = [layer.base for layer in module.adapter.layers.values()]
    for call in CALLS.values():
        call(module)
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    with pytest.raises(ConfigError, match="the call has no gates"):
        CALLS["forward"](module)
    with module.adapter.before_task():
        CALLS["forward"](module)
    assert base == [layer.base for layer in module.adapter.layers.values()]


@pytest.mark.parametrize("call", CALLS)
def test_branches_without_gates_run_as_they_are(make: Callable[..., ContinualLM], call: str) -> None:
    CALLS[call](make(IncLoRA(rank=2)))


@pytest.mark.parametrize("strategy", [*GATED, "inclora"])
@pytest.mark.parametrize("part", ["llm", "base model"])
@pytest.mark.parametrize("how", ["save_pretrained", "push_to_hub"])
def test_an_adapted_model_is_not_written(
    make: Callable[..., ContinualLM], strategy: str, part: str, how: str, tmp_path: Path
) -> None:
    module = make({**GATED, "inclora": lambda: IncLoRA(rank=2)}[strategy]())
    whole = {"llm": module.llm, "base model": module.llm.base_model}[part]
    folder = tmp_path / "saved"
    with pytest.raises(
        ConfigError, match=r"cannot be saved .*; keep the run folder and load .* cl_lightning.load_run"
    ) as error:
        getattr(whole, how)(str(folder))
    assert not folder.exists() and "\n" not in str(error.value)


def test_a_model_without_adapters_is_written_as_ever(tmp_path: Path) -> None:
    llm = Backbone("random-llama", dtype="float32").load(100)
    llm.save_pretrained(tmp_path)
    again = tf.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(IDS).logits, llm(IDS).logits)
