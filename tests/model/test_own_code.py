"""Models with code of their own: refused in one line unless the user trusts them."""

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from cl_lightning.commands import data_check
from cl_lightning.common.errors import ConfigError
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.random_llama import random_tokenizer

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Words(PreTrainedTokenizerFast):
    pass
class Config(LlamaConfig):
    model_type = "stranger"
class Model(LlamaForCausalLM):
    config_class = Config
"""
VOCABULARY = len(random_tokenizer())


@pytest.fixture
def with_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    model = tmp_path / "model"
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes)).save_pretrained(model)
    (model / "strange.py").write_text(CODE)
    random_tokenizer().save_pretrained(model)
    own = {"AutoConfig": "strange.Config", "AutoModelForCausalLM": "strange.Model"}
    for file, said in (
        ("config.json", {"model_type": "stranger", "auto_map": own}),
        ("tokenizer_config.json", {"tokenizer_class": "Words", "auto_map": {"AutoTokenizer": [None, "strange.Words"]}}),
    ):
        (model / file).write_text(json.dumps(json.loads((model / file).read_text()) | said))
    return model


def test_untrusted_code_is_refused_in_one_line_everywhere(with_code: Path, tmp_path: Path) -> None:
    asked = Backbone(str(with_code), dtype="float32")
    task = tmp_path / "data" / "trace" / "Mine"
    task.mkdir(parents=True)
    (task / "train.json").write_text("[]")
    for act in (
        asked.load_tokenizer,
        lambda: asked.load(VOCABULARY),
        lambda: data_check.main([str(tmp_path / "data"), f"--model={with_code}"]),
    ):
        with pytest.raises(ConfigError) as caught:
            act()
        assert str(caught.value) == (
            f"model.backbone.name: {with_code} comes with code of its own; if you trust it: "
            "--model.backbone.trust_remote_code=true, or --trust-remote-code for commands that have it "
            "(in Python: trust_remote_code=True)"
        )


def test_trusted_code_is_loaded(with_code: Path) -> None:
    asked = Backbone(str(with_code), dtype="float32", trust_remote_code=True)
    assert type(asked.load_tokenizer()).__name__ == "Words"
    assert type(asked.load(VOCABULARY)).__name__ == "Model"
