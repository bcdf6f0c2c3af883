"""Published corpora: from the folders in which their authors release them to a manifest, labels and the split."""
