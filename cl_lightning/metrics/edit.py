"""Edit similarity of code, 0..100, with the masked literals of Py150 restored. No torch here."""

import re
from difflib import SequenceMatcher

from rapidfuzz import fuzz

_LITERAL = re.compile(r"<(STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)


def unmask(code: str) -> str:
    """Restore Py150's literals: `<STR_LIT:x>` gives x, a bare `<NUM_LIT>` 0, a bare string or char "".

    As in TRACE, each literal found is replaced everywhere in the code, which matters where literals are nested.

    Example:
        >>> unmask("f ( '<STR_LIT:a>' , '<STR_LIT>' , <NUM_LIT> )")
        "f ( 'a' , '' , 0 )"
    """
    code = code.replace("<NUM_LIT>", "0").replace("<STR_LIT>", "").replace("<CHAR_LIT>", "")
    for kind, literal in _LITERAL.findall(code):
        code = code.replace(f"<{kind}_LIT:{literal}>", literal)
    return code


def edit_similarity(prediction: str, reference: str, _prompt: str) -> float:
    """Similarity 2 LCS / (|a| + |b|) of the un-masked codes, rounded to an integer as in TRACE.

    TRACE calls fuzzywuzzy, whose value depends on whether python-Levenshtein is installed; this is the value with
    it. An empty prediction scores 0 even if un-masking leaves nothing of the reference.
    """
    if not prediction or not reference:
        return 100.0 * (prediction == reference)
    return float(round(fuzz.ratio(unmask(prediction), unmask(reference))))


def edit_similarity_trace(prediction: str, reference: str, _prompt: str) -> float:
    """TRACE's similarity without python-Levenshtein: difflib's greedy blocks; 0 if un-masking leaves nothing."""
    given, wanted = unmask(prediction), unmask(reference)
    if not given or not wanted:
        return 0.0
    return float(round(100 * SequenceMatcher(None, given, wanted).ratio()))
