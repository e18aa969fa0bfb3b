"""Metrics: scores of single answers, the score matrix and its summaries, bootstrap intervals. No torch in most."""
