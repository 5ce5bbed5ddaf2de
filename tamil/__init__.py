"""The parts of tamil_dataset.py and of chapters 08 and 09: letters, works, pages, repairs."""
