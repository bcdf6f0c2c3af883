"""The verbs of `sage-va`, one file each: parse, call, print. No logic lives here."""
