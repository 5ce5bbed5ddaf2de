"""Tamil: the letters of its script, and the sources of its classical poetry."""
