"""A Sudoku while it is being solved: in the terminal, as a GIF and as a web page, through plumbing/views.py."""

import contextlib
import os
import sys
from dataclasses import replace

import torch

from plumbing import cli, grids, tokenizers, views

LETTERS = [*grids.DIGITS, *" |-+\n", tokenizers.MASK_CHAR]  # views.py wants the mask to be last
FACTS = "the surest digit first, one per pass; after a conflict, an unsure digit and younger ones are masked again"


def on_paper(state, mask_id):
    """Return a State of chapter 04 as `grids.picture` draws it, so that views.py can show it.

    Its canvas (B, 231) holds ids of LETTERS: the tokens of the 81 cells, and the lines between them, which count as
    given tokens.
    """
    paper = grids.picture([0] * grids.CELLS)
    places = torch.tensor([i for i, character in enumerate(paper) if character == "."])
    lines = torch.tensor([0 if character == "." else LETTERS.index(character) for character in paper])
    cells = torch.where(state.canvas == mask_id, len(LETTERS) - 1, state.canvas)

    def spread(values, between):  # (B, 81) → (B, 231)
        return between.to(values.dtype).repeat(len(values), 1).index_copy(1, places, values)

    return replace(state, canvas=spread(cells, lines), confidence=spread(state.confidence, torch.ones_like(lines)),
                   committed=spread(state.committed, torch.zeros_like(lines)))


def check(flags, number):
    """Raise UserError if `number` puzzles cannot be shown as flags.gif and flags.html ask."""
    for path, suffix in ((flags.gif, ".gif"), (flags.html, ".html")):
        if path:
            views.check_path(path, suffix)
            if number > 1:
                raise cli.UserError(f"--{suffix[1:]} shows one puzzle: give one to --solve")


def watch(states, mask_id, flags):
    """Show the States of a sampler in the terminal if they hold one puzzle, and in the files that `flags` name.

    flags: has quiet, gif and html. Returns the last State, on the CPU.
    """
    state = next(states).to("cpu")
    history = [on_paper(state, mask_id)]
    given = (history[0].canvas < len(LETTERS) - 1).tolist()
    live = sys.stdout.isatty() and len(given) == 1 and not flags.quiet and os.environ.get("TERM") != "dumb"
    terminal = views.Terminal(given, LETTERS, sys.stdout)
    with terminal if live else contextlib.nullcontext():
        for later in states:
            state = later.to("cpu")
            if live or flags.gif or flags.html:
                history.append(on_paper(state, mask_id))
            if live:
                terminal.draw(history[-1], f"pass {state.nfe}")
    for path, make in ((flags.gif, lambda: views.gif_bytes(history, given, LETTERS)),
                       (flags.html, lambda: views.html_page(history, LETTERS, "Sudoku", FACTS).encode())):
        if path:
            size = views.save(path, make())
            if not flags.quiet:
                print(f"wrote {path} ({size})")
    return state
