"""What a tokenizer cannot write is told; what is spelled like its control tokens is text."""

import json
import string
from pathlib import Path

import pytest
import transformers as tf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from cl_lightning.data.base import Example
from cl_lightning.data.prompt import PromptEncoder
from cl_lightning.data.writable import decoded, lost_characters
from cl_lightning.model.random_llama import random_tokenizer
from tests.commands.test_cli import configs, launch
from tests.families import FAMILIES, make


def pieces(normalizer: normalizers.Normalizer | None = None) -> tf.PreTrainedTokenizerBase:
    """Like T5's: no Chinese, no braces, no line ends."""
    known = string.ascii_letters + string.digits + ".,:;!?()-'\"/%=+*_<>[]"
    core = Tokenizer(
        models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((c, -3.0) for c in known)], 2)
    )
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    if normalizer is not None:
        core.normalizer = normalizer
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="</s>"
    )


@pytest.mark.parametrize("normalizer", [None, normalizers.Replace("\n", " ")], ids=["unknown", "left out"])
def test_characters_that_do_not_come_back_are_counted(normalizer: normalizers.Normalizer | None) -> None:
    tokenizer = pieces(normalizer)
    assert lost_characters(tokenizer, ["all of this, and (this)"] * 3) is None
    lost = lost_characters(tokenizer, ["a {b}\n", "abcd"])
    assert lost is not None and lost.share == pytest.approx(3 / 9) and set(lost.commonest) == {"{", "}", "\n"}
    assert str(lost).startswith("33.3 % of the characters ('")
    # "▁a", "▁", "{", "b", "}", line end; "▁abcd": what is unknown and adjacent is one token.
    ids = tokenizer(["a {b}\n", "abcd"], add_special_tokens=False).input_ids
    unknown = [sum(i == tokenizer.unk_token_id for i in row) for row in ids]
    assert unknown[0] == 2 and lost.unknown == pytest.approx(sum(unknown) / sum(map(len, ids)))
    assert str(lost).endswith(f"; {100 * lost.unknown:.1f} % of the tokens are unknown")
    assert lost_characters(random_tokenizer(), ["a {b}\n", "评论"]) is None, "bytes write everything"


def test_the_run_and_the_data_check_tell_it(tmp_path: Path) -> None:
    tokenizer = pieces()
    config = FAMILIES["T5"]()
    config.vocab_size, config.eos_token_id = len(tokenizer), 1
    make(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"text": f"{'评论' if i % 2 else 'ab'} {i}", "label": "AB"[i % 2]} for i in range(12)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    task = {"name": "own", "prompt": "say: {text}", "answer": "label", "metric": "accuracy", "train": "rows.json"}
    task |= {"test_share": 0.5, "max_new_tokens": 2}
    benchmark = {"class_path": "cl_lightning.data.UserTasks", "init_args": {"tasks": [task]}}
    file = tmp_path / "data.yaml"
    file.write_text(json.dumps({"data": {"benchmark": benchmark, "order": None, "root": str(tmp_path)}}))
    result = launch("data-check", "--config", str(file), f"--model={tmp_path / 'model'}")
    assert result.code == 0 and "% of the characters (" in result.out and "% of the tokens are unknown" in result.out, (
        result.err
    )
    options = ("--boundary.init=null", "--boundary.memory=null", "--data.validation_samples=1", "--data.batch_size=2")
    model = f"--model.backbone.name={tmp_path / 'model'}"
    result = launch(*configs("smoke"), f"--config={file}", *options, model, f"--sequence.run_dir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    assert any(line.startswith("own: ") and "cannot be written" in line for line in result.out.splitlines())


@pytest.mark.parametrize("template", [True, False])
def test_control_tokens_spelled_out_are_text(template: bool) -> None:
    tokenizer = random_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|eot|>"]})
    if not template:
        tokenizer.chat_template = None
    ends = {tokenizer.convert_tokens_to_ids(token) for token in ("<|end|>", "<|start|>", "<|eot|>", "<|pad|>")}
    encoder = PromptEncoder(tokenizer, 400, None)
    plain, _, _ = encoder.prompt(Example("x", "say it now", "a"), 0.5)
    for spelled in ("<|end|>", "<|eot|>"):
        ids, _, own = encoder.prompt(Example("x", f"say {spelled} now", "a"), 0.5)
        assert sum(i in ends for i in ids) == sum(i in ends for i in plain)
        assert not ends & set(ids[own[0] : own[1]]) and tokenizer.decode(ids[own[0] : own[1]]) == f"say {spelled} now"
        answer = encoder.answer(f"{spelled}b")
        assert not ends & set(answer[:-1]) and answer[-1] == tokenizer.eos_token_id
    assert ends & set(tokenizer("say <|end|> now").input_ids), "negative control: parsed otherwise"


def test_decoding_leaves_blanks_as_they_are() -> None:
    """As some tokenizers ask for: answers were trained with the blank before the comma."""
    tokenizer = pieces()
    tokenizer.clean_up_tokenization_spaces = True
    ids = tokenizer("a , b", add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == "a, b", "the control"
    assert decoded(tokenizer, ids) == "a , b"
