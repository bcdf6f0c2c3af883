"""The report of runs: one HTML page that holds its data, its script and its styles, and needs no network."""
