"""General ability: lm-eval's tasks before and after continual learning."""
