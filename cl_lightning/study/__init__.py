"""The study that compares methods: its grid of runs, the file of their results, and the tables made of it. No torch."""
