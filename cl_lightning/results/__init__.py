"""Reads finished runs: tables, comparisons, new scores. Only `reevaluate` imports torch."""
