"""`python -m sage_va`: the same as `sage-va`."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="sage-va")
