"""Programs and functions that write the pages in docs/ from measured or counted numbers."""
