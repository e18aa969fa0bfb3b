"""The data check: what the command says of made data, of the real files, and of bad input."""

import csv
import json
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from cl_lightning.__main__ import main
from cl_lightning.common.errors import ConfigError, DataError
from cl_lightning.data.audit import check as data_check
from cl_lightning.data.audit.profile import Limits, words
from cl_lightning.data.base import Example, TaskSpec
from cl_lightning.data.benchmarks.trace import TRACE
from cl_lightning.data.prompt import PromptEncoder
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.backbone import Backbone
from tests.conftest import ROOT, SHARED
from tests.launch import launched

REAL = SHARED / "data"


def checked(*argv: str) -> subprocess.CompletedProcess[str]:
    return launched(["data-check", *argv], ROOT)


def written(root: Path) -> Path:
    for layout, rows in {
        "trace/Mine": [{"prompt": f"p {i % 6}", "answer": "yes" if (i + i // 8) % 2 else "no"} for i in range(12)],
        "trace/Bad": [{"prompt": "p"}],
        "long_sequence/cb": {"Definition": ["d"], "Instances": [{"input": f"{i}", "output": "a b"} for i in range(3)]},
    }.items():
        (root / layout).mkdir(parents=True)
        for split in ("train", "test", "eval", "dev"):
            (root / layout / f"{split}.json").write_text(json.dumps(rows))
    return root


def test_the_command_names_what_it_finds(tmp_path: Path) -> None:
    root = written(tmp_path / "data")
    done = checked(str(root), "--csv", str(tmp_path / "new" / "out.csv"))
    assert done.returncode == 0, done.stderr
    output = " ".join(done.stdout.split())
    assert "TRACE Mine: dev equals test (all 12 prompts): do not select models by it" in output
    assert "TRACE Mine: 6 of 12 training prompts repeat an earlier one (data.dedup)" in output
    assert "TRACE Mine: 6 test prompts (12 of 12 examples) are also in train (data.drop_leaks)" in output
    assert "LongSequence cb: 3/3 train/test examples; the published files have 250/56" in output
    assert re.search(r"TRACE Bad: cannot be read: \S+train\.json: record 1 has no 'answer'", output)
    assert "no 50 %, yes 50 %" in output
    assert "TRACE Mine: 4 training prompts occur with different answers" in output
    rows = list(csv.DictReader((tmp_path / "new" / "out.csv").open(encoding="utf-8")))
    assert [(r["benchmark"], r["task"], r["train"]) for r in rows] == [
        ("LongSequence", "cb", "3"),
        ("TRACE", "Bad", ""),
        ("TRACE", "Mine", "12"),
    ]
    assert [r["contradicted"] for r in rows] == ["0", "", "4"]
    # SmolLM2's tokens of "d\n0\nOutput: " and of "a b", counted with its tokenizer.
    assert (rows[0]["prompts_max"], rows[0]["answers_max"]) == ("7", "2")


def test_answers_that_training_refuses_are_found_to_the_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"p {i}", "answer": "a b"} for i in range(4)]
    for split in ("train", "test"):
        (path := tmp_path / "Mine" / f"{split}.json").parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(rows))
    for limit, refused in ((2, True), (3, False)):  # two tokens and the end token
        monkeypatch.setattr(sys, "argv", ["cl-lightning", "data-check", str(tmp_path), f"--max-answer-tokens={limit}"])
        assert main() == 0
        line = "TRACE Mine: 4 of 4 training answers exceed data.max_answer_tokens: training refuses them"
        assert (line in capsys.readouterr().out) is refused
        data = TaskSequence(
            TRACE(), root=str(tmp_path), order=["Mine"], max_answer_tokens=limit, validation_samples=0, system_prompt=""
        )
        with (
            pytest.raises(DataError, match=r"has 3 tokens, data\.max_answer_tokens is 2") if refused else nullcontext()
        ):
            data.prepare(Backbone("smollm2-135m-instruct").load_tokenizer(), False)


def test_own_tasks_are_looked_at_through_their_configuration(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,a\n" + "".join(f"{i % 8},{i % 2}\n" for i in range(16)))
    task: dict[str, Any] = {"name": "mine", "train": "a.csv", "test": "a.csv", "prompt": "{q}", "answer": "a"}
    config = tmp_path / "own.yaml"

    def look(**changes: Any) -> subprocess.CompletedProcess[str]:
        tasks = [{**task, "metric": "accuracy", **changes}]
        config.write_text(yaml.safe_dump({"data": {"benchmark": {"init_args": {"tasks": tasks}}}}))
        return checked(str(tmp_path), "--words", "--config", str(config))

    done = look()
    assert (done.returncode, done.stderr) == (0, "")
    assert "own mine: 8 of 16 training prompts repeat an earlier one" in done.stdout
    assert "own mine: cannot be read: " in look(answer="b").stdout
    output = look(metric="first_letter").stdout
    assert (
        "own mine: cannot be scored: mine/test/0: first_letter: the answer '0' does not begin with a choice" in output
    )
    assert (
        "own mine: cannot be scored: unknown metric 'acuracy'; did you mean accuracy" in look(metric="acuracy").stdout
    )
    refused = checked("--words", "--config", str(config), "--csv", "/proc/no/out.csv", str(tmp_path))
    line = "error: /proc/no/out.csv: cannot be written (No such file or directory); name another file"
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (2, line)
    assert "Traceback" not in refused.stderr
    refused = look(nmae="x")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {config}: ") and len(refused.stderr.splitlines()) == 1
    assert "nmae" in refused.stderr


def test_any_benchmark_of_a_configuration_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("q,a\n" + "".join(f"{i},{'no' if i % 2 else 'yes'}\n" for i in range(16)))
    (tmp_path / "b.csv").write_text("q,a\n3,no\n20,yes\n")
    task = {"name": "mine", "train": "a.csv", "test": "b.csv", "prompt": "{q}", "answer": "a", "metric": "accuracy"}
    own = {"class_path": "cl_lightning.data.UserTasks", "init_args": {"tasks": [task]}}
    flipped = {"class_path": "cl_lightning.data.Flipped", "init_args": {"base": own, "task": "mine"}}
    left_out = "1 training examples are left out: their prompts are in test"

    def look(**data: Any) -> str:
        (config := tmp_path / "x.yaml").write_text(yaml.safe_dump({"data": {"root": str(tmp_path), **data}}))
        monkeypatch.setattr(sys, "argv", ["cl-lightning", "data-check", "--words", "--config", str(config)])
        assert main() == 0
        return capsys.readouterr().out

    output = look(benchmark=flipped)
    assert output.startswith("DATA = own data (mine)\n")
    assert f"Flipped mine: {left_out}" in output and f"Flipped mine-flipped: {left_out}" in output
    output = look(benchmark=flipped, order=["mine-flipped"])
    assert "Flipped mine-flipped: " in output and "Flipped mine: " not in output
    monkeypatch.delenv("CL_DATA", raising=False)
    output = look(benchmark="SuperNI", root=None, order=["FOMC"])
    assert output.startswith("DATA = built-in sample, NOT Super-NI\n") and "SuperNI FOMC" in output


def test_limits_written_beside_own_tasks_hold_and_the_template_counts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,a\n" + "".join(f"one two {i},{i % 2}\n" for i in range(16)))
    task = {"name": "mine", "train": "a.csv", "test": "a.csv", "prompt": "Say.\n{q}", "answer": "a", "metric": "f1"}
    data = {"root": str(tmp_path), "max_prompt_tokens": 20, "benchmark": {"init_args": {"tasks": [task]}}}
    (config := tmp_path / "own.yaml").write_text(yaml.safe_dump({"data": data}))
    done = checked("--config", str(config))
    assert "own mine: 32 prompts exceed data.max_prompt_tokens by template, instruction and cue alone" in done.stdout
    # Another limit on the command line comes first.
    assert "alone" not in checked("--config", str(config), "--max-prompt-tokens", "64").stdout
    tokenizer = Backbone("smollm2-135m-instruct").load_tokenizer()
    example = Example("x", "Say.\none two 1", "1", instruction=5)
    with pytest.raises(ConfigError, match="20 leaves no room"):
        PromptEncoder(tokenizer, 20, "").encode(example, TaskSpec("mine", "f1", 4))
    assert not PromptEncoder(tokenizer, 64, "").encode(example, TaskSpec("mine", "f1", 4)).cut


def test_published_sizes_that_are_not_known_are_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = {"Definition": ["d"], "Instances": [{"input": f"{i}", "output": "a"} for i in range(3)]}
    rows = [{"prompt": f"p {i}", "answer": "a b c"} for i in range(3)]
    layouts = {**{f"long_sequence/{t}": file for t in ("yahoo", "dbpedia", "cb", "Mine")}, "trace/Mine": rows}
    for layout, content in layouts.items():
        (tmp_path / layout).mkdir(parents=True)
        for split in ("train", "test"):
            (tmp_path / layout / f"{split}.json").write_text(json.dumps(content))
    (tmp_path / "task088_a.json").write_text(json.dumps({**file, "Instance License": ["CC0"]}))
    out = tmp_path / "out.csv"
    monkeypatch.setattr(sys, "argv", ["cl-lightning", "data-check", str(tmp_path), "--words", "--csv", str(out)])
    assert main() == 0
    shown = capsys.readouterr().out
    notes = [line for line in shown.splitlines() if "size is known" in line]
    assert notes == [
        "note: LongSequence: no published size is known for dbpedia (train), yahoo (train and test)",
        "note: NISeq: no published size is known for task088 (train and test)",
    ]
    rows = {r["task"]: r for r in csv.DictReader(out.open(encoding="utf-8"))}
    assert rows["task088"]["source"].endswith("licence of its texts: one of their own; its file says CC0")
    assert "size" not in rows["yahoo"]["flaws"]


def test_a_link_to_itself_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = written(tmp_path / "data")
    (root / "trace" / "FOMC").mkdir()
    for split in ("train", "test"):
        (root / "trace" / "FOMC" / f"{split}.json").symlink_to(f"{split}.json")
    (root / "trace" / "C-STANCE").symlink_to("C-STANCE")
    monkeypatch.setattr(sys, "argv", ["cl-lightning", "data-check", str(root), "--words"])
    assert main() == 0
    assert "FOMC/train.json: cannot be read (Too many levels of symbolic links)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["{here}/nowhere"], "nowhere is not a folder"),
        (["{here}"], "no data of LongSequence, NISeq, SuperNI, TRACE there"),
        ([], "no data folder; name one (make data-check DATA=FOLDER)"),
        (["--config", "{here}/none.yaml"], "none.yaml is missing; the folder holds: "),
        (["--config", "{here}/other.yaml"], "other.yaml: holds no data.benchmark (KeyError: 'benchmark')"),
        (["--config", "{here}/unknown.yaml"], "no class 'cl_lightning.data.Fliped'; did you mean Flipped?"),
        (["--config", "{here}/part.yaml"], "part.yaml: unknown option UserTask.nme; did you mean name? valid: also"),
        (["--config", "{here}/words.yaml"], "data.benchmark.words: give it together with kind=words"),
        (["--config", "{here}/order.yaml", "--words"], "data.order: unknown task 'FOCM'; did you mean FOMC"),
        (["--config", "{here}/nested.yaml"], "data.order: unknown task {'FOMC': 1}; did you mean FOMC? valid: 20Min"),
        (["--config", "{here}/empty.yaml"], "data.order: the list is empty; name at least one task"),
        (["--config", "{here}/double.yaml"], "data.order: FOMC appears twice"),
        (["--config", "{here}/limit.yaml", "--words"], "data.max_answer_tokens: 'many' is not a number of tokens"),
        (["--config", "{here}/option.yaml"], "option.yaml: unknown option 'data.dedupe'; did you mean dedup?"),
        (["--config", "{here}/twice.yaml"], "twice.yaml, line 1: not valid YAML ('dedup' is given twice"),
        (["--config", "{here}/bytes.yaml"], "bytes.yaml: not UTF-8 text (byte 2)"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argv: list[str], said: str
) -> None:
    monkeypatch.delenv("CL_DATA", raising=False)
    (tmp_path / "other.yaml").write_text("data: {}\n")
    (tmp_path / "unknown.yaml").write_text("data: {benchmark: {class_path: cl_lightning.data.Fliped}}\n")
    (tmp_path / "part.yaml").write_text("data: {benchmark: {init_args: {tasks: [{nme: x}]}}}\n")
    (tmp_path / "words.yaml").write_text("data: {benchmark: {class_path: Flipped, init_args: {kind: words}}}\n")
    (tmp_path / "order.yaml").write_text("data: {benchmark: {class_path: TRACE}, order: [FOCM]}\n")
    (tmp_path / "nested.yaml").write_text("data: {benchmark: TRACE, order: [{FOMC: 1}]}\n")
    (tmp_path / "empty.yaml").write_text("data: {benchmark: TRACE, order: []}\n")
    (tmp_path / "double.yaml").write_text("data: {benchmark: TRACE, order: [FOMC, FOMC]}\n")
    (tmp_path / "limit.yaml").write_text("data: {benchmark: TRACE, order: [FOMC], max_answer_tokens: many}\n")
    (tmp_path / "option.yaml").write_text("data: {benchmark: TRACE, dedupe: true}\n")
    (tmp_path / "twice.yaml").write_text("data: {dedup: true, benchmark: TRACE, dedup: false}\n")
    (tmp_path / "bytes.yaml").write_bytes(b"a:\xff\n")
    with patch.object(sys, "argv", ["cl-lightning", "data-check", *(word.format(here=tmp_path) for word in argv)]):
        assert main() == 2
    output = capsys.readouterr().err
    assert said in output and len(output.splitlines()) == 1


# ---------------------------------------------------------------- real data


def published_table() -> dict[str, dict[str, int]]:
    """The table in the data's own README: task -> train, dev, test, dupTrain, ..."""
    text = (REAL / "README.md").read_text(encoding="utf-8")
    line = (
        r"^(?:superni|long_sequence|trace)/(\S+): n=(\d+)/(\d+)/(\d+) .*?dupTrain=(\d+) train&test=(\d+) dev&test=(\d+)"
    )
    names = ("train", "dev", "test", "repeated", "leaked", "dev_in_test")
    return {
        name: dict(zip(names, map(int, numbers), strict=True))
        for name, *numbers in re.findall(line, text, flags=re.MULTILINE)
    }


@pytest.mark.long
@pytest.mark.skipif(not (REAL / "README.md").is_file(), reason="no data beside this checkout")
def test_the_real_files_are_as_their_readme_says() -> None:
    expected = published_table()
    assert len(expected) == 36
    checked = {c.task: c for c in (data_check.check(REAL, *f, words, Limits()) for f in data_check.found(REAL))}
    assert {*checked} == {*expected} - {"Lima"}, "which is for replay and has no test answers"
    for name, one in checked.items():
        found = {key: getattr(one.profile, key) for key in expected[name]}
        found["train"] += one.profile.blank
        assert found == expected[name], name
    assert "dev equals test (all 496 prompts): do not select models by it" in checked["FOMC"].flaws
    assert "4718 of 5000 training prompts repeat an earlier one (data.dedup)" in checked["NumGLUE-cm"].flaws
    assert "32 test prompts (34 of 325 examples) are also in train (data.drop_leaks)" in checked["NumGLUE-ds"].flaws
    assert checked["task511_reddit_tifu_long_text_summarization"].profile.blank == 6
    assert list(checked["cb"].profile.labels) == ["contradiction", "entailment", "neutral"]
    assert checked["wic"].profile.expected == (2000, 638)


def test_an_existing_csv_is_kept_unless_it_is_to_be_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = written(tmp_path / "data"), tmp_path / "mine.csv"
    out.write_text("mine")
    argv = ["cl-lightning", "data-check", str(root), "--words", "--csv", str(out)]
    monkeypatch.setattr(sys, "argv", argv)
    assert main() == 2
    assert f"--csv: {out} already exists; name another file, or add --overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"
    monkeypatch.setattr(sys, "argv", [*argv, "--overwrite"])
    assert main() == 0
    assert out.read_text().startswith("benchmark")
