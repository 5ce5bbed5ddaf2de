"""What programs need besides their subject. You may skip this folder.

    cli            flags, settings files, and errors in one line
    files          where things are; files that are whole; files from outside; downloads
    text           the texts to learn from, and their characters as numbers
    devices        device, number format, compilation
    run            a training run: its steps, its folder, how it is resumed
    checkpoint     a model's folder: save, load, find
    hub            models from the Hugging Face Hub and to it
    runtimes       models as ONNX files, and ONNX Runtime, which computes them faster
    views          a text while it is written: in a terminal, as a GIF, as a web page
    measures       how near texts are to real text (chapters 09 to 13); a mean and its error
    parallel       several processes that act as one (chapter 12)
    token_files    texts of any size as one file of tokens (chapter 12)
    sudoku         rules, an exact solver, a generator (chapter 14)
    robot          maps, a planner, measures of paths (chapter 15)
    shakespeare    where TinyShakespeare comes from
    published      the models that the original tiny-dllm published
"""

import os

# PyTorch's threads wait for each other hundreds of times in a pass. On Linux they wait in a loop, which burns the core
# that another program may need: beside one busy program, writing a text then takes up to twelve times as long. With
# this number they soon give up the core instead, and on a quiet machine that costs next to nothing. It is read when
# PyTorch is first imported, so the programs import this folder before torch.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
