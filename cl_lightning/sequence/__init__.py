"""The run: tasks one after the other, what callbacks may ask, the run folder, resuming and loading."""
