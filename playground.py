"""`python playground.py` is `python -m playground`. A Hugging Face Space starts a file, and not a package."""

from playground.__main__ import main
from plumbing import cli

if __name__ == "__main__":
    cli.run(main)
