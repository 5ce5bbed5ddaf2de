"""Everything that is not the subject of the book. A reader may skip this folder."""
