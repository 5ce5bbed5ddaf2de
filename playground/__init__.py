"""A web page on which visitors can use the models. Start it with `python -m playground`; see docs/playground.md.

    writing     the choice of models, the options for a text, and texts that take turns
    drawing     texts as HTML, while a model writes them and afterwards
    page        the four tabs, and the actions of their buttons
"""
