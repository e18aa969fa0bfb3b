"""Readers of the user's files, one module for each format; `read.READERS` lists them by suffix."""
