"""Shared utilities: errors, files, seeds, collectives. Nothing here depends on models or tasks."""
