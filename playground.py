"""`python playground.py` does the same as `python -m playground`. A Hugging Face Space can only start a file."""

from playground.__main__ import main
from plumbing import cli

if __name__ == "__main__":
    cli.run(main)
