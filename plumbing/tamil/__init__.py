"""The letters of Tamil, and the sources of classical poetry."""
