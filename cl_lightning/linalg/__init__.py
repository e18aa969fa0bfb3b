"""TODO-DOC cl_lightning/linalg."""
