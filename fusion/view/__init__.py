"""The page of `sage-va view`: a clip's recording beside its traces, served to this machine alone."""
