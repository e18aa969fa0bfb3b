"""The table of docs/models.md is what the code does with a tiny model of each architecture."""

import re

from cl_lightning.adapters.selection import selected
from cl_lightning.common.errors import ConfigError
from tests.conftest import ROOT
from tests.families import FAMILIES, make
from tests.model.test_matrix import METHODS

PAGE = ROOT / "docs" / "models.md"
LEFT_OUT = re.compile(r"not adapted, since ([^:]+): (.*?)(?: \(\d+ (?:weights?|layers), .*| \(\d+ layers\)|$)")


def row(family: str) -> str:
    """The family's line of the table."""
    llm = make(FAMILIES[family]())
    head = llm.get_output_embeddings()
    every = selected(llm, head, "all-linear", 2)
    try:
        leaves = dict.fromkeys(name.rpartition(".")[2] for name in selected(llm, head, "query_value", 2).layers)
        query_value = ", ".join(f"`{leaf}`" for leaf in sorted(leaves))
    except ConfigError:
        query_value = "refused: no attention"
    left = [LEFT_OUT.match(line) for line in every.remarks]
    parts = [re.sub(r" \(\d+ x \d+\)", "", found[2]) for found in left if found]
    names = dict.fromkeys(name.removesuffix(".weight") for part in parts for name in part.split(", "))
    return f"| {family} | `{llm.config.model_type}` | {query_value} | {', '.join(f'`{n}`' for n in names) or '-'} |"


def test_the_table_is_what_the_code_does() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and line.count("|") == 5]
    assert rows[1:] == [row(family) for family in FAMILIES]


def test_the_page_names_the_methods() -> None:
    text = PAGE.read_text()
    assert all(method in text for method in METHODS) and f"{len(FAMILIES)} architectures" in text
