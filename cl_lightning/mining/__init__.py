"""TODO-DOC cl_lightning/mining."""
