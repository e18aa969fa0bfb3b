"""TODO-DOC cl_lightning/data/audit."""
