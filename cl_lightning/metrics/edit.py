"""Edit similarity of code, 0..100, with Py150's literals put back. No torch here."""

import re
from difflib import SequenceMatcher

from rapidfuzz import fuzz

_LITERAL = re.compile(r"<(STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)


def unmask(code: str) -> str:
    """Put Py150's literals back: `<STR_LIT:x>` is x, a bare `<NUM_LIT>` is 0, a bare string or char is "".

    As TRACE does it, each literal found in turn and wherever it stands, which shows where they are nested.

    Example:
        >>> unmask("f ( '<STR_LIT:a>' , '<STR_LIT>' , <NUM_LIT> )")
        "f ( 'a' , '' , 0 )"
    """
    code = code.replace("<NUM_LIT>", "0").replace("<STR_LIT>", "").replace("<CHAR_LIT>", "")
    for kind, literal in _LITERAL.findall(code):
        code = code.replace(f"<{kind}_LIT:{literal}>", literal)
    return code


def edit_similarity(prediction: str, reference: str, _prompt: str) -> float:
    """Similarity of the un-masked codes, 2 LCS / (|a| + |b|), rounded to a whole number as TRACE does.

    TRACE calls fuzzywuzzy, whose value depends on whether python-Levenshtein is installed; this is the one
    with it. An empty prediction scores 0 even where the reference is un-masked to nothing.
    """
    if not prediction or not reference:
        return 100.0 * (prediction == reference)
    return float(round(fuzz.ratio(unmask(prediction), unmask(reference))))


def edit_similarity_trace(prediction: str, reference: str, _prompt: str) -> float:
    """TRACE's similarity without python-Levenshtein: difflib's greedy blocks; 0 where un-masking leaves nothing."""
    given, wanted = unmask(prediction), unmask(reference)
    if not given or not wanted:
        return 0.0
    return float(round(100 * SequenceMatcher(None, given, wanted).ratio()))
