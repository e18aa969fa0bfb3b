"""Several runs side by side: read and aligned, aggregated over seeds, written as a paper's table. No torch here."""
