"""TODO-DOC cl_lightning/commands."""
