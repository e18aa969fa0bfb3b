"""The record of a run: metrics, the commit after each task, exports for other programs."""

VERSIONS = ("torch", "lightning", "transformers", "cl-lightning")
