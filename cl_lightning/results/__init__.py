"""TODO-DOC cl_lightning/results."""
