"""Evaluation: greedy generation, likelihoods, scores of tasks, trivial baselines, general ability."""
