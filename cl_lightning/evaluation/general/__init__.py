"""TODO-DOC cl_lightning/evaluation/general."""
