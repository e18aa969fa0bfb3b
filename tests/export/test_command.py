"""The command: where it writes, what it refuses, and that nothing is half-written or in a run's way."""

import shutil
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from cl_lightning.export import FORMATS, merged
from cl_lightning.sequence.folder import RunFolder, adapter_file, read_record
from tests.commands.test_cli import launch
from tests.export.conftest import Runs
from tests.runs import put_file, put_record


@pytest.fixture
def run(runs: Runs, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs("stacked"), tmp_path / "run"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_goes_to_a_folder_of_the_run(format: str, runs: Runs, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs("bpe"), tmp_path / "run"))
    before = files(run)
    result = launch("export", str(run), f"--format={format}")
    assert result.code == 0, result.err
    out = run / "export" / format
    assert result.out.splitlines()[-1] == f"written: {out}"
    assert (out / "README.md").is_file()
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE(out.parent.stat().st_mode)
    (plain := tmp_path / "plain").touch()  # a file with default permissions: others may read the weights too
    modes = {name: stat.S_IMODE((out / name).stat().st_mode) for name in files(out)}
    assert modes == dict.fromkeys(modes, stat.S_IMODE(plain.stat().st_mode))
    assert {name: data for name, data in files(run).items() if not name.startswith("export/")} == before


def test_parts_have_folders_of_their_own(run: Path) -> None:
    assert launch("export", str(run), "--format=peft", "--task=FOMC").code == 0
    assert launch("export", str(run), "--format=peft", "--after=1").code == 0
    assert sorted(p.name for p in (run / "export").iterdir()) == ["peft-FOMC", "peft-after-1"]


def test_a_filled_folder_is_refused_untouched(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    result = launch("export", str(run), "--format=peft", f"--out={out}")
    assert result.code == 2
    assert "is not an empty folder; it was not changed" in result.line
    assert files(out) == {"mine.txt": b"mine"}
    (out / "mine.txt").unlink()
    assert launch("export", str(run), "--format=peft", f"--out={out}").code == 0


@pytest.mark.parametrize("name", ["adapters/mine", "state", "export", "../link/logs/mine"])
def test_a_folder_among_the_runs_files_is_refused(name: str, run: Path) -> None:
    (run.parent / "link").symlink_to(run)
    before = files(run)
    result = launch("export", str(run), "--format=native", f"--out={run / name}")
    assert (result.code, files(run)) == (2, before)
    assert "is inside the run folder; choose a folder outside it or in" in result.line
    assert launch("export", str(run), "--format=native", f"--out={run / 'export' / 'mine'}").code == 0


@pytest.mark.parametrize(("options", "message"), [
    (("--format=onnx",), "invalid choice: 'onnx'"),
    (("--format=peft", "--rank=0"), "0 must be 1 or more"),
    (("--format=peft", "--task=FOMC", "--after=1"), "not allowed with argument"),
    (("--format=peft", "--task=../../x"), "only names below the folder"),
    (("--format=peft", "--task=Nothing"), "no finished task is called 'Nothing'"),
])  # fmt: skip
def test_a_wrong_option_is_said_in_a_line(options: tuple[str, ...], message: str, run: Path) -> None:
    answer = launch("export", str(run), *options)
    assert answer.code == 2
    assert message in answer.line
    assert not list(run.glob("export/*")), "nothing is left behind"


def test_no_run(tmp_path: Path) -> None:
    assert "is not a run folder" in launch("export", str(tmp_path), "--format=peft").line


def test_nothing_half_written_is_left(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merged, "card", fail)
    answer = launch("export", str(run), "--format=merged")
    assert answer.code == 2
    assert "cannot be written (No space left on device)" in answer.line
    assert not list(run.glob("export/*")) and not list(run.glob("export/.*"))


def test_a_link_in_the_run_leads_nowhere(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (run / "export").symlink_to(tmp_path / "elsewhere")
    assert "links are not followed" in launch("export", str(run), "--format=peft").line
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_damaged_branch_is_said(run: Path) -> None:
    branch = run / "adapters" / "FOMC" / "adapter.safetensors"
    branch.write_bytes(branch.read_bytes()[:-1] + b"\0")
    assert "its checksum is not the recorded one" in launch("export", str(run), "--format=peft").line


@pytest.mark.parametrize("wrong", ["shape", "part", "layer", "rank"])
def test_a_branch_that_does_not_fit_is_said(wrong: str, run: Path) -> None:
    name = adapter_file("FOMC")
    tensors = load_file(run / name)
    key = next(key for key in tensors if key.endswith("q_proj.lora_A"))
    changed = {
        "shape": {**tensors, key: torch.ones(2, 7)},
        "part": {**tensors, key.replace("lora_A", "gate"): torch.ones(2, 7)},
        "layer": {key.replace("q_proj", "other"): torch.ones(2, 64), key.replace("q_proj.lora_A", "other.lora_B"):
                  torch.ones(64, 2)},
        "rank": {**tensors, key: torch.ones(3, 64)},
    }[wrong]  # fmt: skip
    put_file(run, name, save(changed))
    answer = launch("export", str(run), "--format=merged")
    assert answer.code == 2
    assert f"{run / name}: damaged" in answer.line


def test_a_strangers_class_is_not_imported(run: Path) -> None:
    config = (run / "config.yaml").read_text().replace("cl_lightning.adapters.IncLoRA", "tests.holding.Holding")
    put_file(run, "config.yaml", config.encode())
    assert (
        "names tests.holding.Holding, not a class of this project" in launch("export", str(run), "--format=peft").line
    )


def test_another_base_is_said(run: Path) -> None:
    put_record(run, {**read_record(run), "base": "0123456789abcdef"})
    assert "was trained on another base model" in launch("export", str(run), "--format=peft").line


def test_starting_over_leaves_exports_alone(run: Path) -> None:
    assert launch("export", str(run), "--format=peft").code == 0
    kept = files(run / "export")
    folder = RunFolder(run)
    folder.open("another", fresh=True, begin={**read_record(run), "done": 0, "R": []})
    folder.close()
    assert files(run / "export") == kept
    assert not (run / "adapters").exists()
