"""Benchmarks: ordered tasks and how their files are read. One file each; `cl_lightning.data` exports them."""
