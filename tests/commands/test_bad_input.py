"""What the person at the keyboard can get wrong: one clear line, the right exit code, nothing half done."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.test_cli import Result, configs, launch
from tests.conftest import ROOT

SMALL = (
    *configs("smoke"),
    "--data.train_samples=14",
    "--data.validation_samples=2",
    "--data.test_samples=2",
    "--sequence.wandb=off",
    "--sequence.threads=1",
)
TASKS = ["FOMC", "NumGLUE-cm"]


# ---------------------------------------------------------------- refused before torch is imported

FILES = {
    "malformed.yaml": b"model:\n  lr: 1.0e-3\n  adapter: {init_args: {rank: 4}\ndata: {}\n",
    "latin.yaml": "# Gr\u00f6\u00dfe\n".encode("latin-1"),
    "list.yaml": b"- model\n",
    "twice.yaml": b"data:\n  order: [FOMC]\n  max_prompt_tokens: 64\n  order: null\n",
    "section.yaml": b"modle: {lr: 1}\n",
    "slot.yaml": b"boundary: {init: SliceInt}\n",
    "named.yaml": b"data: {benchmark: {class_path: cl_lightning.data.TRACE, init_args: {order: order2}}}\n",
    "scalar.yaml": b"trainer: 3\nmodel: 4\ndata: {benchmark: TRACE, order: [FOCM]}\n",
    "empty.yaml": b"model:\n  # lr: 1\ndata: {batch_size: 2}\n",
    "none.yaml": b"data: {benchmark: }\n",
    "file.txt": b"",
}

#: name -> options after the smoke configuration ({files}: the folder of FILES), what the line must say.
EARLY: dict[str, tuple[list[str], str]] = {
    "malformed YAML": (["--config={files}/malformed.yaml"], r"malformed\.yaml, line 4: not valid YAML \("),
    "YAML in another encoding": (["--config={files}/latin.yaml"], r"latin\.yaml: not UTF-8 text \(byte 4\)"),
    "an option written twice": (
        ["--config={files}/twice.yaml"],
        r"twice\.yaml, line 4: not valid YAML \('order' is given twice; remove one\)",
    ),
    "YAML without names": (["--config={files}/list.yaml"], r"list\.yaml: must hold options by name"),
    "unknown section in a file": (
        ["--config={files}/section.yaml"],
        r"section\.yaml: unknown option 'modle\.lr'; did you mean model\? valid: boundary, data",
    ),
    "unknown section": (["--modle.lr=1"], r"unknown option 'modle.lr'; did you mean model\?"),
    "unknown configuration file": (
        ["--config", "experiments/smok.yaml"],
        r"no configuration file experiments/smok\.yaml; did you mean smoke\? valid: .*trace_slice",
    ),
    "no configuration file anywhere near": (["--config={files}/no/a.yaml"], r"a\.yaml; no \.yaml file in .*/no$"),
    "a word without an option": (["experiments/smoke.yaml"], r"unexpected 'experiments/smoke.yaml'; use .*--config"),
    "unknown adapter": (
        ["--model.adapter=SeqLora"],
        r"^model\.adapter: no class 'SeqLora'; did you mean SeqLoRA or PSLoRA\?",
    ),
    "unknown adapter by its path": (
        ["--model.adapter.class_path=cl_lightning.adapters.SeqLora"],
        r"^model\.adapter: no class .*did you mean SeqLoRA or PSLoRA\?",
    ),
    "unknown initialiser": (
        ["--boundary.init.initializer=SLICER"],
        r"^boundary\.init\.initializer: no class 'SLICER'; did you mean SLICE\? valid: .*LoRAGA.*SLICE",
    ),
    "unknown initialiser, long form": (
        ["--boundary.init.init_args.initializer=SLICER"],
        r"^boundary\.init\.initializer: no class 'SLICER'; did you mean SLICE\?",
    ),
    "unknown operator": (
        ["--boundary.init.operator=PCGrd"],
        r"^boundary\.init\.operator: no class 'PCGrd'; did you mean PCGrad.*\? valid: AGEM, CAGrad, .*PCGrad",
    ),
    "unknown boundary callback": (["--boundary.init=SliceInt"], r"^boundary\.init: no class .* mean SliceInit\?"),
    "unknown boundary callback in a file": (["--config={files}/slot.yaml"], r"^boundary\.init: .* mean SliceInit\?"),
    "unknown callback in a slot of one's own": (
        ["--boundary.mine=ReplayBufer"],
        r"^boundary\.mine: no class .* mean ReplayBuffer\?",
    ),
    "unknown observer": (["--observers.matrix=ScoreMatri"], r"^observers\.matrix: .* mean ScoreMatrix\?"),
    "unknown benchmark": (["--data.benchmark=TRAC"], r"^data\.benchmark: no class 'TRAC'; did you mean TRACE\?"),
    "unknown task": (
        ["--data.order=[FOMC, NumGLUE-mc]"],
        r"^data\.order: unknown task 'NumGLUE-mc'; did you mean NumGLUE-cm.*\? valid: 20Minuten, C-STANCE",
    ),
    "unknown task appended": (["--data.order+=Sentimant"], r"^data\.order: .*did you mean Sentiment or"),
    "nothing in a file": (["--config={files}/file.txt"], r"file\.txt: must hold options by name$"),
    "nothing in a section": (["--config={files}/empty.yaml"], r"empty\.yaml: model is empty; give it a value"),
    "no adapter": (["--model.adapter=null"], r"the command line: model\.adapter is empty; give it a value"),
    "no benchmark": (["--config={files}/none.yaml"], r"none\.yaml: data\.benchmark is empty"),
    "a class corrected later": (
        ["--config={files}/slot.yaml", "--boundary.init=SliceInit"],
        r"^boundary\.init: no class 'SliceInt'; did you mean SliceInit\?",
    ),
    "sections that are no sections": (["--config={files}/scalar.yaml"], r"unknown task 'FOCM'; did you mean FOMC\?"),
    "an order by name beside a list": (
        ["--data.benchmark.init_args.order=order2"],
        r"^data\.benchmark\.order=order2: data\.order lists the tasks already; add --data\.order=null",
    ),
    "an order by name, written whole": (
        ["--data.benchmark={{class_path: cl_lightning.data.TRACE, init_args: {{order: order2}}}}"],
        r"^data\.benchmark\.order=order2: data\.order lists the tasks already",
    ),
    "an order by name in a benchmark's base": (
        ["--data.benchmark=Flipped", "--data.benchmark.base.order=order2"],
        r"^data\.benchmark\.base\.order=order2: data\.order lists the tasks already",
    ),
    "an order by name in a file": (
        ["--config={files}/named.yaml"],
        r"^data\.benchmark\.order=order2: data\.order li",
    ),
    "task twice": (["--data.order+=FOMC"], r"^data\.order: FOMC appears twice"),
    "data root that is a file": (["--data.root={files}/file.txt"], r"^data\.root: .*file\.txt is not a folder"),
    "data root that is not there": (["--data.root={files}/nowhere"], r"^data\.root: .*nowhere is not a folder"),
    "embedded model misspelt": (
        ["--model.backbone.name=smolm2-135m-instruct"],
        r"^model\.backbone\.name: no model .*did you mean smollm2-135m-instruct\?",
    ),
    "model file that is not there": (
        ["--model.backbone.name={files}/m.gguf"],
        r"^model\.backbone\.name: no model .*m\.gguf'; valid: random-llama, smollm2",
    ),
    "float16 without a scaler": (
        ["--trainer.precision=16-mixed"],
        r"^trainer\.precision=16-mixed: float16 loses .* use bfloat16; on a GPU without it, model\.backbone\.dtype=",
    ),
    "a base in float16": (
        ["--model.backbone.dtype=float16"],
        r"^model\.backbone\.dtype=float16: float16 loses small gradients without a scaler; use bfloat16; on a GPU",
    ),
    "all of the model in bf16": (
        ["--trainer.precision=bf16-true"],
        r"^trainer\.precision=bf16-true: use one of 32-true, .* would cast .*model\.backbone\.dtype=bfloat16$",
    ),
    "unknown precision": (
        ["--trainer.precision=bf17"],
        r"^trainer\.precision=bf17: use one of 32-true, bf16-mixed, 64",
    ),
    "epochs given to the trainer": (["--trainer.max_epochs=3"], r"^trainer\.max_epochs: .*use data\.epochs"),
    "a logger without its package": (
        ["--trainer.logger=[CSVLogger, {{class_path: CometLogger}}]"],
        r"^trainer\.logger: CometLogger needs a package that is not installed: pip install comet-ml$",
    ),
    "no micro-batches": (["--trainer.accumulate_grad_batches=0"], r"accumulate_grad_batches: 0 must be 1 or more"),
}

RUN_ALL = """
import io, json, sys
from contextlib import redirect_stderr
from cl_lightning.__main__ import main
for argv in json.load(sys.stdin):
    sys.argv, output = ["cl_lightning", *argv], io.StringIO()
    with redirect_stderr(output):
        code = main()
    print(json.dumps([code, output.getvalue(), "torch" in sys.modules]))
"""


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, bool]]:
    """What each command of EARLY answered, in one process: exit code, standard error, whether torch was imported."""
    files = tmp_path_factory.mktemp("files")
    for name, content in FILES.items():
        (files / name).write_bytes(content)
    base = [f"--config=experiments/{name}.yaml" for name in ("_base", "smoke")]
    run = f"--sequence.run_dir={files / 'run'}"
    argvs = [[*base, run, *(o.format(files=files) for o in options)] for options, _ in EARLY.values()]
    env = {k: v for k, v in os.environ.items() if k != "CL_DATA"}
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(argvs),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=env,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(EARLY), done.stderr
    assert not (files / "run").exists()
    return dict(zip(EARLY, answers, strict=True))


@pytest.mark.parametrize("name", EARLY)
def test_reported_before_torch(early: dict[str, tuple[int, str, bool]], name: str) -> None:
    code, err, torch_imported = early[name]
    assert code == 2
    assert re.search(EARLY[name][1], Result(code, "", err).line)
    assert not torch_imported


# ---------------------------------------------------------------- refused by the parser and by the classes


def refused(tmp_path: Path, *options: str) -> str:
    """The line of an error found before training: exit code 2, no run folder."""
    result = launch(*SMALL, f"--sequence.run_dir={tmp_path / 'run'}", *options)
    assert result.code == 2, result.err
    assert not (tmp_path / "run").exists()
    return result.line


LATER: dict[str, tuple[str, str]] = {
    "a misspelt callback of Lightning": ("--trainer.callbacks+=EarlyStoping", r"did you mean EarlyStopping\?$"),
    "a misspelt logger of Lightning": ("--trainer.logger=TensorBordLogger", r"did you mean TensorBoardLogger\?$"),
    "a logger that Lightning lacks": ("--trainer.logger=NeptuneLogger", r"needs its whole name, as package\.Class$"),
    "a logger that cannot be built": (
        "--trainer.logger={class_path: WandbLogger, init_args: {offline: true, log_model: true}}",
        r"^WandbLogger cannot be built: .*log_model=True and offline=True.* is an invalid configuration",
    ),
    "unknown option": ("--data.bach_size=3", r"^unknown option data\.bach_size; did you mean batch_size"),
    "unknown option among very many": (
        "--trainer.max_stepz=3",
        r"^unknown option trainer\.max_stepz; did you mean max_steps or max_time\?$",
    ),
    "unknown option of a callback": (
        "--boundary.init.init_args.strenght=0.5",
        r"^unknown option SliceInit\.strenght; did you mean strength\? valid: batch_size, gate_weighting, initializer",
    ),
    "unknown option of a callback, short form": ("--boundary.init.strenght=0.5", r"SliceInit\.strenght; .*strength\?"),
    "unknown option of an adapter": ("--model.adapter.rnak=4", r"^unknown option SeqLoRA\.rnak; did you mean rank"),
    "unknown option of an initialiser": (
        "--boundary.init.initializer.directons=ArB2r",
        r"^unknown option SLICE\.directons; did you mean directions\? valid: directions, variance$",
    ),
    "unknown option of a class without any": ("--observers.matrix.a=1", r"ScoreMatrix\.a; there are none$"),
    "unknown option of the backbone": ("--model.backbone.nme=x", r"model\.backbone\.nme; did you mean name\?"),
    "text for a whole number": ("--model.adapter.rank=abc", r"^SeqLoRA\.rank: expected int, not 'abc'$"),
    "text for a number in a callback": (
        "--boundary.init.strength=x",
        r"^SliceInit\.strength: expected float, not 'x'$",
    ),
    "text for a number": ("--model.lr=abc", r"^model\.lr: expected float, not 'abc'$"),
    "one of several types": (
        "--trainer.gradient_clip_val=x",
        r"^trainer\.gradient_clip_val: expected float or null, not",
    ),
    "a name that is none of the choices": (
        "--model.schedule=liner",
        r"^model\.schedule: expected 'linear' or 'cosine' or 'constant', not 'liner'$",
    ),
    "a choice or a number": (
        "--data.epochs=publishd",
        r"^data\.epochs: expected int or list or 'published', not 'publishd'$",
    ),
    "a task outside a list": ("--data.order=FOMC", r"^data\.order: expected list or null, not 'FOMC'$"),
    "a class that cannot be imported": (
        "--boundary.mine=nowhere.Thing",
        r"^boundary: no class 'nowhere\.Thing' \(No module named 'nowhere'\)$",
    ),
    "an abstract class": ("--model.adapter=AdapterStrategy", r"^model\.adapter: .*AdapterStrategy is abstract$"),
    "batch size 0": ("--data.batch_size=0", r"^data\.batch_size: 0 must be 1 or more$"),
    "fewer than no validation samples": ("--data.validation_samples=-1", r"^data\.validation_samples: -1 must be 0"),
    "strength 2": ("--boundary.init.strength=2", r"^boundary\.init\.strength: 2\.0 must lie in 0\.\.1$"),
    "devices": ("--trainer.devices=x", r"^trainer: `devices` selected with"),
    "accelerator": ("--trainer.accelerator=gpux", r"^trainer: .*invalid accelerator name.*Available names are: auto"),
    "rank 0": ("--model.adapter.rank=0", r"^model\.adapter\.rank: 0 must be 1 or more"),
    "rank larger than a matrix": (
        "--model.adapter.rank=65",
        r"rank: 65 is larger than .*q_proj \(64 x 64\); use at most 64",
    ),
    "targets that match nothing": (
        "--model.adapter.targets=[q_prj]",
        r"targets: \['q_prj'\] matches no linear layer of the model; did you mean q_proj",
    ),
    "an initialiser for an adapter that goes on": (
        "--model.adapter.per_task=continue",
        r"boundary\.init with model\.adapter\.per_task=continue.*use per_task=fresh_folded, or boundary\.init=null$",
    ),
    "surgery without memory": (
        "--boundary.memory=null",
        r"boundary\.init\.operator needs .*add boundary\.memory .*or set .*operator=null$",
    ),
    "two callbacks of one kind": ("--boundary.more=ReplayBuffer", r"ReplayBuffer fills two slots \(memory, more\)"),
    "validation that leaves nothing": (
        "--data.validation_samples=9999",
        r"^data\.validation_samples: 9999 leaves no training example of FOMC",
    ),
    "epochs for another number of tasks": ("--data.epochs=[1,2,3]", r"^data\.epochs: \[1, 2, 3\] must be one number"),
}


@pytest.mark.parametrize("name", LATER)
def test_reported_before_training(tmp_path: Path, name: str) -> None:
    option, expected = LATER[name]
    assert re.search(expected, refused(tmp_path, option))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("model: {lrr: 3}", r"^unknown option model\.lrr; did you mean lr\?"),
        ("model: {adapter: {init_args: {rnak: 3}}}", r"^unknown option SeqLoRA\.rnak; did you mean rank"),
        ("model: {adapter: {init_args: {rank: abc}}}", r"^SeqLoRA\.rank: expected int, not 'abc'$"),
        ("data: {batch_size: x}", r"^data\.batch_size: expected int, not 'x'$"),
        ("boundary: {init: {class_path: SliceInit, init_args: {strength: 3}}}", r"strength: 3\.0 must lie in 0\.\.1"),
        (
            "sequence: {wandb: off}",
            r"^sequence\.wandb: expected 'offline' or 'online' or 'off', not 'False' \(YAML reads a bare off",
        ),
        ("seed_everything: abc", r"^seed_everything: expected int, not 'abc'$"),
    ],
)
def test_a_wrong_file_is_reported_as_a_wrong_option_is(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "wrong.yaml").write_text(content)
    options = [o for o in SMALL if not o.startswith("--sequence.wandb")]
    result = launch(*options, f"--config={tmp_path / 'wrong.yaml'}", f"--sequence.run_dir={tmp_path / 'run'}")
    assert result.code == 2
    assert re.search(expected, result.line)
    assert not (tmp_path / "run").exists()
