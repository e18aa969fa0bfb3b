"""TODO-DOC cl_lightning/sequence/record.py."""

VERSIONS = ("torch", "lightning", "transformers", "cl-lightning")
