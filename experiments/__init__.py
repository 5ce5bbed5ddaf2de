"""These programs write pages of docs/. Run one with `python -m experiments.NAME`. No chapter imports them."""
