"""A real model on real prompts in float32 gives the same strings for any batch, padding and number of ranks.

Of tiny models `test_generate` says the same.
"""

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.files import to_jsonl
from cl_lightning.data.base import TaskSpec
from cl_lightning.data.benchmarks import trace
from cl_lightning.data.collate import prompt_batch
from cl_lightning.data.prompt import Encoded, PromptEncoder
from cl_lightning.data.sample.tasks import TASKS, load
from cl_lightning.data.task_data import TaskData
from cl_lightning.evaluation.generate import continuations
from cl_lightning.evaluation.score_task import score_task
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.prefix_cache import common_prefix
from tests.conftest import SHARED
from tests.launch import on_two_ranks

pytestmark = pytest.mark.long
BUDGET = 6
#: Two candidates whose logits differ by less are a tie that rounding decides.
TIE = 1e-4
NAMES = ("FOMC", "20Minuten", "Py150")
FILES = SHARED / "data" / "trace"
#: Prompts of TRACE's own files, at most this many tokens: two tasks whole, three cut in the middle.
REAL_COUNTS = {"FOMC": 3, "ScienceQA": 2, "C-STANCE": 1, "MeetingBank": 1, "Py150": 1}
REAL_TOKENS = 112


def real() -> ContinualLM:
    """SmolLM2 with a branch large enough to change its answers."""
    module = ContinualLM(Backbone("smollm2-135m-instruct", dtype="float32"), SeqLoRA(rank=8, alpha=16))
    module.load(module.backbone.load_tokenizer())
    rng = torch.Generator().manual_seed(0)
    module.adapter.begin_task(0, rng)
    for layer in module.adapter.layers.values():
        layer.lora_B.data.normal_(0, 0.01, generator=rng)
    module.llm.eval()
    return module


@pytest.fixture(scope="module")
def model() -> ContinualLM:
    torch.set_num_threads(1)
    return real()


@pytest.fixture(scope="module")
def prompts(model: ContinualLM) -> list[tuple[int, ...]]:
    """Four prompts of each of three tasks, of 40 to 160 tokens."""
    encoder = PromptEncoder(model.tokenizer, 160, "")
    return [encoder.encode(e, TASKS[name]).prompt_ids for name in NAMES for e in load(name).test[:4]]


@pytest.fixture(scope="module")
def alone(model: ContinualLM, prompts: list[tuple[int, ...]]) -> list[list[int]]:
    """Run transformers' generate on one prompt at a time, without padding."""
    return [row for prompt in prompts for row in plain(model, [prompt])]


def plain(model: ContinualLM, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Run transformers' generate once, left-padded to the longest, in the given order."""
    batch = prompt_batch(prompts, model.tokenizer.pad_token_id, left=True)
    with torch.no_grad():
        made = model.llm.generate(**batch, max_new_tokens=BUDGET, do_sample=False)
    return made[:, batch["input_ids"].shape[1] :].tolist()


def is_tie(llm: PreTrainedModel, prompt: Sequence[int], a: list[int], b: list[int]) -> bool:
    """Return whether two continuations first differ at a tie: both tokens' logits, recomputed alone, hardly differ."""
    first = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    with torch.no_grad():
        logits = llm(torch.tensor([[*prompt, *a[:first]]]), logits_to_keep=1).logits[0, -1]
    return abs(float(logits[a[first]] - logits[b[first]])) < TIE


def trimmed(row: list[int], end: int) -> list[int]:
    """Cut after the end token and pad with it to the budget."""
    row = row[: row.index(end)] if end in row else row
    return row + [end] * (BUDGET - len(row))


def assert_same(model: ContinualLM, prompts: Sequence[Sequence[int]], ours: list[list[int]], wanted: list[list[int]]):
    end = model.tokenizer.eos_token_id
    for prompt, a, b in zip(prompts, ours, wanted, strict=True):
        a, b = trimmed(a, end), trimmed(b, end)
        assert a == b or is_tie(model.llm, prompt, a, b), (a, b)


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_batch_size_and_padding(
    model: ContinualLM, prompts: list[tuple[int, ...]], alone: list[list[int]], batch_size: int
) -> None:
    assert len({len(p) for p in prompts}) > 6, "left padding is of many widths"
    ours = continuations(model.llm, model.tokenizer, prompts, BUDGET, batch_size)
    assert len({tuple(row) for row in ours}) > 6
    assert_same(model, prompts, ours, alone)


def test_one_task_with_its_prefix_shared(model: ContinualLM, prompts: list[tuple[int, ...]], alone: list[list[int]]):
    ours = continuations(model.llm, model.tokenizer, prompts[:4], BUDGET, 32)
    assert_same(model, prompts[:4], ours, alone[:4])


@pytest.fixture(scope="module")
def genuine(model: ContinualLM) -> list[Encoded]:
    if not FILES.is_dir():
        pytest.skip("needs ../shared/data/trace")
    encoder = PromptEncoder(model.tokenizer, REAL_TOKENS, "")
    first = {name: trace.load(FILES, name).test[:count] for name, count in REAL_COUNTS.items()}
    found = [encoder.encode(e, trace.TASKS[name]) for name, examples in first.items() for e in examples]
    assert {e.cut > 0 for e in found} == {True, False} and len({len(e.prompt_ids) for e in found}) > 3
    return found


@pytest.fixture(scope="module")
def genuine_alone(model: ContinualLM, genuine: list[Encoded]) -> list[list[int]]:
    rows = [row for e in genuine for row in plain(model, [e.prompt_ids])]
    assert len({tuple(row) for row in rows}) > 4
    return rows


def test_real_prompts_in_one_batch(model: ContinualLM, genuine: list[Encoded], genuine_alone: list[list[int]]) -> None:
    """In the given order with transformers, and sorted with ours."""
    prompts = [e.prompt_ids for e in genuine]
    lengths = [len(prompt) for prompt in prompts]
    assert lengths != sorted(lengths, reverse=True), "sorting changes their order"
    assert_same(model, prompts, plain(model, prompts), genuine_alone)
    assert_same(model, prompts, continuations(model.llm, model.tokenizer, prompts, BUDGET, 32), genuine_alone)


@pytest.mark.parametrize("batch_size", [1, 32])
def test_real_prompts_of_one_task_with_their_prefix_shared(
    model: ContinualLM, genuine: list[Encoded], genuine_alone: list[list[int]], batch_size: int
) -> None:
    count = REAL_COUNTS["FOMC"]
    prompts = [e.prompt_ids for e in genuine[:count]]
    assert common_prefix(prompts) > 20
    ours = continuations(model.llm, model.tokenizer, prompts, BUDGET, batch_size)
    assert_same(model, prompts, ours, genuine_alone[:count])


def test_another_token_is_no_tie(model: ContinualLM, prompts: list[tuple[int, ...]], alone: list[list[int]]) -> None:
    """Negative control of the rule that lets strings differ."""
    other = [alone[0][0], (alone[0][1] + 1) % 1000, *alone[0][2:]]
    assert not is_tie(model.llm, prompts[0], alone[0], other)


def _task(module: ContinualLM) -> TaskData:
    encoder, spec = PromptEncoder(module.tokenizer, 160, ""), TASKS["FOMC"]
    short = TaskSpec(spec.name, spec.metric, BUDGET)
    return TaskData(short, (), (), tuple(encoder.encode(e, short) for e in load("FOMC").test[:5]), 1, 0, whole="")


def _rank(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    module = real()
    scored = score_task(module, _task(module), 32)
    (Path(folder) / f"{rank}.jsonl").write_bytes(to_jsonl(scored.rows))
    torch.distributed.destroy_process_group()


def test_two_ranks(model: ContinualLM, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    on_two_ranks(_rank, port, str(tmp_path))
    one = score_task(model, _task(model), 32)
    assert len({row["prediction"] for row in one.rows}) > 1
    for rank in range(2):
        assert (tmp_path / f"{rank}.jsonl").read_bytes() == to_jsonl(one.rows)
