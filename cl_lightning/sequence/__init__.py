"""The run: the loop over tasks, the interface for callbacks, the run folder, resuming and loading."""
