"""TODO-DOC cl_lightning/data/benchmarks."""
