"""Stage 1: media in, Tracks out."""
