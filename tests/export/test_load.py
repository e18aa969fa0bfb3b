"""`cl_lightning.load`: the strings of the run's own scoring for every strategy, likelihoods, what is refused.

The first test that asks for a run trains it (`tests.export.tiny`), which takes all its time beyond a second or two.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import cl_lightning
from cl_lightning.common.errors import ConfigError, StateError
from cl_lightning.data.base import Example
from cl_lightning.data.prompt import PromptEncoder
from cl_lightning.export.loaded import LoadedModel, PromptCutWarning
from cl_lightning.sequence.folder import ZERO_SHOT
from tests.conftest import ROOT
from tests.export.tiny import BUDGET, EACH, GATED, TASKS, Trained, stored

PROMPTS = ["What comes after 7?\nAnswer: ", "Is a rise in rates hawkish?\nA short answer, please: "]


@pytest.fixture(scope="module")
def loaded(trained: Trained) -> LoadedModel:
    """The model of SeqLoRA, for tests that leave it as it is."""
    return cl_lightning.load(trained("SeqLoRA"))


def answers(loaded: LoadedModel, run: Path, after: str, task: str, **options: str) -> tuple[list[str], list[str]]:
    """What the model says to a task's scored prompts, in twos, and what the run's scoring had of it."""
    prompts, predictions = stored(run, after, task)
    return loaded.generate(prompts, max_new_tokens=BUDGET, batch_size=2, **options), predictions


@pytest.mark.parametrize("name", [*EACH, "t5", "without template", "start"])
def test_what_is_generated_is_what_the_runs_scoring_stored(trained: Trained, name: str) -> None:
    run, seen = trained(name), set()
    for after, chosen in ((ZERO_SHOT, 0), (TASKS[0], TASKS[0]), (TASKS[1], None)):
        loaded = cl_lightning.load(run, chosen)
        for task in TASKS if after != TASKS[0] else TASKS[:1]:
            said, predictions = answers(loaded, run, after, task)
            assert said == predictions
            seen.add(tuple(said))
        assert len(loaded.tasks) == {ZERO_SHOT: 0, **dict(zip(TASKS, (1, 2), strict=True))}[after]
    assert len(seen) >= 3, "the control: tasks and models differ"


@pytest.mark.parametrize("name", GATED)
def test_other_gates_say_something_else(trained: Trained, name: str) -> None:
    """The negative control: with all branches open, or none, the same comparison fails."""
    run = trained(name)
    for opened in (1.0, 0.0):
        loaded = cl_lightning.load(run)
        gates = loaded.module.adapter.forward_kwargs
        loaded.module.adapter.forward_kwargs = lambda batch, g=gates, o=opened: {
            "gates": torch.full_like(g(batch)["gates"], o)
        }
        said, predictions = zip(*(answers(loaded, run, TASKS[1], task) for task in TASKS), strict=True)
        assert said != predictions


def test_another_system_prompt_says_something_else(loaded: LoadedModel, trained: Trained) -> None:
    for system_prompt in ("", "Be long and winding."):
        said, predictions = answers(loaded, trained("SeqLoRA"), TASKS[1], TASKS[0], system_prompt=system_prompt)
        assert said != predictions
    said, predictions = answers(loaded, trained("SeqLoRA"), TASKS[1], TASKS[0], system_prompt="Be brief.")
    assert said == predictions, "and training's own is not kept out by those before it"


@pytest.mark.parametrize("name", [*EACH, "t5", "without template", "start"])
def test_a_score_is_the_log_likelihood_of_answer_and_end_token(trained: Trained, name: str) -> None:
    loaded = cl_lightning.load(trained(name))
    pairs = [(prompt, answer) for prompt in PROMPTS for answer in ("8", "no", "a longer answer")]
    found = loaded.score(*zip(*pairs, strict=True), batch_size=4)
    assert found == pytest.approx([by_hand(loaded, *pair) for pair in pairs], rel=1e-9)
    assert len({round(value, 6) for value in found}) == len(pairs)


@torch.no_grad()
def by_hand(loaded: LoadedModel, prompt: str, answer: str) -> float:
    """From `loaded.inputs` and one plain forward pass of the model."""
    inputs = loaded.inputs([prompt])
    text = answer if loaded.tokenizer.chat_template else f" {answer}"
    ids = [*loaded.tokenizer(text, add_special_tokens=False).input_ids, loaded.tokenizer.eos_token_id]
    row = torch.tensor([ids])
    if loaded.model.config.is_encoder_decoder:
        logits = loaded.model(**inputs, labels=row).logits
    else:
        whole = torch.cat([inputs.pop("input_ids"), row], 1)
        inputs["attention_mask"] = torch.ones_like(whole)
        logits = loaded.model(input_ids=whole, **inputs).logits[:, -len(ids) - 1 : -1]
    return float(logits[0].log_softmax(-1).gather(1, row.t()).sum())


@pytest.mark.parametrize("name", ["SeqLoRA", *GATED, "t5"])
def test_the_model_itself_generates_the_same_from_its_inputs(trained: Trained, name: str) -> None:
    loaded = cl_lightning.load(trained(name))
    inputs = loaded.inputs(PROMPTS)
    assert ("gates" in inputs) == (name != "SeqLoRA")
    out = loaded.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    new = out[:, 1:] if name == "t5" else out[:, inputs["input_ids"].shape[1] :]
    wanted = loaded.generate(PROMPTS, max_new_tokens=6)
    assert loaded.tokenizer.batch_decode(new, skip_special_tokens=True) == wanted


@pytest.mark.parametrize("name", GATED)
def test_a_gated_model_without_gates_is_refused_with_what_to_call(trained: Trained, name: str) -> None:
    loaded = cl_lightning.load(trained(name))
    plain = loaded.inputs(PROMPTS)
    plain.pop("gates")
    for call in (loaded.model, loaded.model.generate):
        with pytest.raises(ConfigError, match=r"the call has no gates.*cl_lightning\.load\(folder\)"):
            call(**plain)


@pytest.mark.parametrize("name", ["GainLoRA", "without template", "t5"])
def test_a_stream_gives_the_same_text_in_pieces(trained: Trained, name: str) -> None:
    loaded, pieces = cl_lightning.load(trained(name)), list[str]()
    for prompt in PROMPTS:
        said = loaded.stream(prompt, pieces.append, max_new_tokens=16)
        assert [said] == loaded.generate([prompt], max_new_tokens=16)
        assert "".join(pieces) == said
        assert "" not in pieces
        pieces.clear()


def test_sampling_follows_the_seed_and_the_temperature(trained: Trained) -> None:
    loaded = cl_lightning.load(trained("GainLoRA"))

    def drawn(seed: int, temperature: float) -> list[str]:
        torch.manual_seed(seed)
        return loaded.generate(PROMPTS, max_new_tokens=6, temperature=temperature)

    assert drawn(1, 1.0) == drawn(1, 1.0) != drawn(2, 1.0)
    assert drawn(1, 1e-4) == loaded.generate(PROMPTS, max_new_tokens=6)


def test_long_prompts_lose_their_middle_as_in_training_and_it_is_said(loaded: LoadedModel) -> None:
    long = "".join(f"{i} " for i in range(300))
    with pytest.warns(PromptCutWarning, match="1 of 2 prompts exceeded 400 tokens and lost the middle"):
        inputs = loaded.inputs([PROMPTS[0], long])
    encoder = PromptEncoder(loaded.tokenizer, 400, "Be brief.", "2024-02-03")
    ids, _, _ = encoder.prompt(Example("", long, ""), 0.5)
    assert inputs["input_ids"][1].tolist() == ids and len(ids) == 400
    assert loaded.inputs([long], max_prompt_tokens=2000)["input_ids"].shape[1] > 1000
    with pytest.raises(ConfigError, match=r"prompts\[0\]: \d+ tokens and 1500 .* model's context of 2048; lower max_"):
        loaded.generate([long], max_new_tokens=1500, max_prompt_tokens=2000)


def test_each_model_of_a_run_of_tasks_alone_is_chosen_by_name(trained: Trained) -> None:
    run = trained("alone")
    for task in TASKS:
        loaded = cl_lightning.load(run, task)
        assert loaded.tasks == (task,)
        said, predictions = answers(loaded, run, task, task)
        assert said == predictions
    with pytest.raises(StateError, match="one model per task"):
        cl_lightning.load(run)


def test_the_dtype_of_the_base_may_be_changed(loaded: LoadedModel, trained: Trained) -> None:
    narrow = cl_lightning.load(trained("SeqLoRA"), dtype="float32")
    assert (loaded.model.dtype, narrow.model.dtype) == (torch.float64, torch.float32)
    one, other = (m.score(PROMPTS, ["8", "no"]) for m in (loaded, narrow))
    assert one != other and one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "float46"}, "dtype: 'float46' is not the name of a dtype for the base; did you mean float"),
        ({"device": "gpu"}, "device: 'gpu' is not a device that PyTorch knows"),
        ({"device": ["cpu"]}, r"device: \['cpu'\] is not a device that PyTorch knows"),
        (
            {"dtype": torch.float32},
            r"dtype: torch\.float32 is not the name of a dtype for the base; did you mean float32",
        ),
        ({"after": 1.5}, "after: expected a number of tasks or a task's name, got float"),
        ({"after": True}, "after: expected a number of tasks or a task's name, got bool"),
        ({"allow": "my.Own"}, "allow: expected a list of class names, got the text 'my.Own'"),
        ({"device": "cpu:3"}, "device: cpu:3 is not available on this machine"),
        ({"device": "meta"}, "device: meta is not available on this machine"),
    ],
)
def test_an_argument_of_another_kind_is_refused(trained: Trained, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        cl_lightning.load(trained("SeqLoRA"), **options)


def test_an_argument_of_its_kind_is_taken(trained: Trained) -> None:
    """The control."""
    assert cl_lightning.load(trained("SeqLoRA"), device="cpu").model.device.type == "cpu"


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (3, r"after=3 is not in 0\.\.2, the number of finished tasks"),
        ("3", r"after=3 is not in 0\.\.2"),
        ("FOCM", "no finished task is called 'FOCM'; did you mean FOMC"),
    ],
)
def test_a_task_that_is_not_done_is_refused(trained: Trained, after: int | str, said: str) -> None:
    with pytest.raises(StateError, match=said):
        cl_lightning.load(trained("SeqLoRA"), after)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (None, r"is not a run folder \(no sequence\.json\), nor a folder that .* exported \(no cl_lightning\.json\)"),
        ("adapter_config.json", r"load it with peft\.AutoPeftModelForCausalLM\.from_pretrained"),
        ("config.json", r"load it with transformers\.AutoModelForCausalLM\.from_pretrained"),
    ],
)
def test_other_folders_are_refused_with_what_loads_them(tmp_path: Path, file: str | None, said: str) -> None:
    if file:
        (tmp_path / file).write_text("{}")
    with pytest.raises(StateError, match=said):
        cl_lightning.load(tmp_path)


BAD: dict[str, tuple[dict[str, object], str]] = {
    "one text": ({"prompts": "one"}, "prompts: expected a list of texts, got one text"),
    "a number": ({"prompts": [3]}, r"prompts\[0\]: expected text, got int"),
    "half a pair": ({"prompts": ["\ud800"]}, r"prompts\[0\]: '\\ud800' is not valid UTF-8"),
    "no budget": ({"max_new_tokens": 0}, "max_new_tokens: 0 must be 1 or more"),
    "no batch": ({"batch_size": 0}, "batch_size: 0 must be 1 or more"),
    "cold": ({"temperature": -1.0}, r"temperature: -1\.0 must be 0 or more"),
    "no number": ({"temperature": float("nan")}, "temperature: nan must be 0 or more"),
    "no tokens": ({"max_prompt_tokens": 0}, "max_prompt_tokens: 0 must be 1 or more"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(loaded: LoadedModel, name: str) -> None:
    options, said = BAD[name]
    with pytest.raises(ConfigError, match=said) as error:
        loaded.generate(**{"prompts": PROMPTS, **options})
    assert "\n" not in str(error.value)


def test_without_a_template_there_is_no_system_prompt_and_no_empty_prompt(trained: Trained) -> None:
    loaded = cl_lightning.load(trained("without template"))
    with pytest.raises(ConfigError, match="system_prompt: the model has no chat template"):
        loaded.generate(PROMPTS, system_prompt="Be brief.")
    with pytest.raises(ConfigError, match=r"prompts\[1\]: is empty"):
        loaded.generate(["x", ""])
    with pytest.raises(ConfigError, match="answers: 1 for 2 prompts; give one for each"):
        loaded.score(PROMPTS, ["8"])
    assert loaded.generate([]) == loaded.score([], []) == []


def test_what_the_page_shows_works(trained: Trained) -> None:
    page, shown_run = (ROOT / "docs" / "trained_model.md").read_text(), "runs/trace_gainlora/c4fb45d101fa"
    shown = page.split("```python\n", 1)[1].split("```", 1)[0]
    scope: dict[str, Any] = {}
    exec(shown.replace(shown_run, str(trained("GainLoRA"))), scope)
    assert (len(scope["answers"]), len(scope["values"])) == (1, 2)
    table = page.split("## Methods and attributes", 1)[1].split("\n\n")[1]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)", row.split("|")[1])}
    public = {name for name in vars(LoadedModel) if not name.startswith("_")}
    assert named == public | {"tasks"}
