"""Scoring: per-sample text metrics, the score matrix and its summaries, trivial baselines."""
