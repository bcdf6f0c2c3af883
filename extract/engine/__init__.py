"""The extraction run: threads, worker processes and clusters."""
