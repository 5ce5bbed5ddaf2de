"""Modules that tamil_dataset.py and chapters 08 and 09 use: letters, works, pages, repairs."""
