"""Helper code for the programs of the book. You can skip this folder.

    cli            command-line flags, settings files, error messages
    files          folders of the book, safe reading and writing of files, downloads
    text           training texts, tokenizers
    devices        device, number format, compilation
    run            the steps and the folder of a training run
    checkpoint     saving, finding and loading models
    hub            download and upload of models (Hugging Face Hub)
    runtimes       export of models to ONNX files, faster sampling with ONNX Runtime
    views          display of a text while a model writes it
    measures       quality of written texts (chapters 09 to 13), standard errors
    parallel       training with several processes (chapter 12)
    token_files    large texts, stored as files of tokens (chapter 12)
    sudoku         the rules of Sudoku, an exact solver, a generator of puzzles (chapter 14)
    robot          maps, a path planner, measures of paths (chapter 15)
    shakespeare    download of TinyShakespeare
    published      models of the original tiny-dllm
"""

import os

# In each pass, PyTorch's threads wait for each other hundreds of times. On Linux, a waiting thread runs in a loop and
# keeps its core busy. If another program needs a core, writing a text takes up to twelve times as long as on an idle
# machine. With this setting, a waiting thread soon gives up its core. On an idle machine, the setting costs almost
# nothing. PyTorch reads the setting while it is imported, so the programs import this folder before torch.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
