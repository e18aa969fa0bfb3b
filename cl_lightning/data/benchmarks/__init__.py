"""Benchmarks: ordered tasks and the readers of their files. One module each; `cl_lightning.data` exports them."""
