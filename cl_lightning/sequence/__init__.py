"""TODO-DOC cl_lightning/sequence."""
