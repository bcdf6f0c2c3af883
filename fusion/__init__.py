"""Stage 2: Tracks in, valence and arousal out. Never imports extract."""
