"""Exports where this package is not to be had: one isolated Python that refuses to import it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cl_lightning.evaluation.generate import generate
from cl_lightning.export import gguf, merged, peft
from cl_lightning.export.trained import Request
from cl_lightning.sequence.load import load_run
from tests.export.conftest import Runs

SCRIPT = """
import json, sys

class Refuses:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("cl_lightning", "callbacks"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuses())
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

folders, file, prompt, out = json.loads(sys.argv[1])
found = {}
for name in ("base", "peft", "merged", "gguf"):
    options = {"gguf_file": file} if name == "gguf" else {}
    source = folders["base" if name == "peft" else name]
    llm = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **options)
    if name == "peft":
        llm = PeftModel.from_pretrained(llm, folders["peft"])
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    text = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(text, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    found[name] = llm.eval()(input_ids=ids).logits.detach().clone()
    found[name + "/ids"] = ids
    made = llm.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    found[name + "/made"] = made.clone()
save_file(found, out)
"""


@pytest.fixture(scope="module")
def found(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What that Python made of each export. Some 10 s: it imports torch, transformers and PEFT anew."""
    root, run = tmp_path_factory.mktemp("elsewhere"), runs("bpe")
    folders = {name: str(root / name) for name in ("base", "peft", "merged", "gguf")}
    for folder in folders.values():
        Path(folder).mkdir()
    merged.export(Request(run, after="0"), root / "base")
    for module in (peft, merged, gguf):
        module.export(Request(run), Path(folders[module.__name__.rpartition(".")[2]]))
    output = json.dumps([folders, gguf.FILE, "Will rates rise?", str(root / "found.safetensors")])
    done = subprocess.run([sys.executable, "-I", "-c", SCRIPT, output], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_file(root / "found.safetensors")


@pytest.mark.parametrize("format", ["peft", "merged", "gguf"])
def test_logits_and_answers_are_those_of_the_run(format: str, found: dict[str, Tensor], runs: Runs) -> None:
    module, ids = load_run(runs("bpe")).module, found[f"{format}/ids"]
    with torch.no_grad():
        ours = module.llm(input_ids=ids).logits
    torch.testing.assert_close(found[format], ours, rtol=1e-5, atol=1e-5)
    made = module.tokenizer.decode(found[f"{format}/made"][0, ids.shape[1] :], skip_special_tokens=True)
    assert [made] == generate(module.llm, module.tokenizer, ids.tolist(), 8, 1)


def test_the_base_alone_is_another_model(found: dict[str, Tensor]) -> None:
    """Negative control."""
    assert (found["base"] - found["merged"]).abs().max() > 1e-2
