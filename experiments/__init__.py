"""Programs that measure, and that write pages of docs/: `python -m experiments.NAME`. No chapter imports them."""
