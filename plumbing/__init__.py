"""What programs need besides their subject. You may skip this folder.

    cli            flags, settings files, and errors in one line
    files          where things are; files written whole or not at all; files from outside; downloads
    text           the texts to learn from, and their characters as numbers
    devices        device, number format, compilation
    run            a training run: its steps, its folder, how it is resumed
    checkpoint     a model's folder: save, load, find
    hub            models from the Hugging Face Hub and to it
    runtimes       models as ONNX files, and ONNX Runtime, which runs them faster
    views          a text while a model writes it: in a terminal, as a GIF, as a web page
    measures       how close written texts are to real text (chapters 09 to 13); a mean and its error
    parallel       several processes that act as one (chapter 12)
    token_files    texts of any size as one file of tokens (chapter 12)
    sudoku         rules, an exact solver, a generator (chapter 14)
    robot          maps, a planner, measures of paths (chapter 15)
    shakespeare    where TinyShakespeare comes from
    published      the models that the original tiny-dllm published
"""

import os

# PyTorch's threads wait for each other hundreds of times in a pass. On Linux they wait in a loop, which keeps a core
# busy that another program may need. If one other program is busy, writing a text then takes up to twelve times as
# long. With this setting the threads soon give up the core instead, which costs next to nothing on a quiet machine.
# PyTorch reads the setting when it is first imported, so the programs import this folder before torch.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
