"""Engine of the extraction: one pipeline per process, and a scheduler for many processes."""
