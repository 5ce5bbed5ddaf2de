"""A web page on which visitors can use the models. Start it with `python -m playground`; see docs/playground.md.

    writing     chooses the models, checks the options for a text, and lets several texts take turns
    drawing     draws texts as HTML, while a model writes them and afterwards
    page        makes the four tabs, and does what their buttons say
"""
