"""TODO-DOC cl_lightning/data/sample."""
