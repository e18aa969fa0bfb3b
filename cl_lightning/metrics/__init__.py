"""TODO-DOC cl_lightning/metrics."""
