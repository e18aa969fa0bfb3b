"""Faults in reports, exports and loaded models."""

from tests.mutants.faults.fault import Fault

FAULTS = (
    Fault(
        "a page does not escape",
        "cl_lightning/results/page/document.py",
        "autoescape=True",
        "autoescape=False",
        "tests/results/page/test_hostile.py",
    ),
    Fault(
        "a page prints what does not print",
        "cl_lightning/results/page/document.py",
        "else printable(value)",
        "else str(value)",
        "tests/results/page/test_hostile.py",
    ),
    Fault(
        "a report replaces somebody else's file",
        "cl_lightning/results/page/write.py",
        "if file.exists() and not is_report(file):",
        "if False:",
        "tests/results/page/test_report_files.py -k somebody",
    ),
    Fault(
        "starting over deletes what is only called like a report's file",
        "cl_lightning/sequence/run_files.py",
        "(name in REPORT and is_report(path / name))",
        "name in REPORT",
        "tests/results/page/test_report_files.py -k starting",
    ),
    Fault(
        "a report that fails at a run's end is not told",
        "cl_lightning/results/page/write.py",
        """        say(f"the report could not be drawn""",
        """        str(f"the report could not be drawn""",
        "tests/results/page/test_report_files.py -k fault",
    ),
    Fault(
        "what an attempt lost stays in the log",
        "cl_lightning/results/page/source.py",
        'row["cl/step"] < again',
        "True",
        "tests/results/page/test_page.py -k attempt",
    ),
    Fault(
        "the Pareto front holds what another method beats",
        "cl_lightning/results/page/comparing/plane.py",
        "u >= x and v >= y and (u, v) != (x, y)",
        "u > x and v > y",
        "tests/results/page/test_comparison_page.py -k front",
    ),
    Fault(
        "charts of one page share names",
        "cl_lightning/results/page/drawing.py",
        'element.set("id", f"{chart.name}-{name}")',
        'element.set("id", name)',
        "tests/results/page/test_page.py -k names",
    ),
    Fault(
        "a loaded model forgets training's system prompt",
        "cl_lightning/export/loaded.py",
        "system = ours.system_prompt if system_prompt is None else system_prompt",
        "system = system_prompt",
        "tests/export/test_load.py -k 'scoring_stored and IncLoRA'",
    ),
    Fault(
        "the score of an answer leaves its end token out",
        "cl_lightning/export/loaded.py",
        "ends = [encoder.answer(text) for",
        "ends = [encoder.answer(text)[:-1] for",
        "tests/export/test_load.py -k 'log_likelihood and IncLoRA'",
    ),
    Fault(
        "a stream goes on behind the end token",
        "cl_lightning/evaluation/stream.py",
        "self.ended = self.ended or int(value) in self.ends",
        "self.ended = False",
        "tests/evaluation/test_stream.py",
    ),
    Fault(
        "predictions are written as formulas",
        "cl_lightning/commands/predict.py",
        "plain_cell(text)] for",
        "text] for",
        "tests/export/test_predict.py -k csv",
    ),
    Fault(
        "cells of tables are written as formulas",
        "cl_lightning/common/files.py",
        "plain_cell(cell) if plain and isinstance(cell, str) else cell",
        "cell",
        "tests/commands/test_untrusted.py -k formula",
    ),
    Fault(
        "the memory can be read by anybody",
        "cl_lightning/sequence/saving.py",
        "to_json(state), callback.private)",
        "to_json(state))",
        "tests/commands/test_untrusted.py -k owner",
    ),
)
