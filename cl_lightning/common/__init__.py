"""What every room uses: errors, files, seeds, collectives. Knows nothing of models or tasks."""
