"""Programs that measure, and write the pages of docs/: `python -m experiments.NAME`. No chapter imports them."""
