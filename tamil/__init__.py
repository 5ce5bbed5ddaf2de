"""What tamil_dataset.py and the chapters 08 and 09 are made of: letters, works, pages."""
