"""The models in a web page: `python -m playground`. docs/playground.md explains the page.

    writing     the models that a visitor can choose, what can be asked of them, and one pass at a time
    drawing     texts as HTML, while they are written and afterwards
    page        the four tabs, and what their buttons do
"""
