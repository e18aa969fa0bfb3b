"""TODO-DOC cl_lightning/model."""
