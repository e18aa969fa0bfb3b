"""TODO-DOC cl_lightning/common."""
