"""Task files of our own for lm-eval, with the functions that they name."""
