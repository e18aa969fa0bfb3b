"""Estimates what a run takes before anything is loaded: memory, steps, bytes on disk, time."""
