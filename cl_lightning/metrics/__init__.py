"""Metrics: scores of single answers, summaries of the score matrix, bootstrap intervals. Mostly without torch."""
