"""The demo: a drawn corpus of talking faces, and the road over every command on it."""
