"""Everything that is not the subject of the book. A reader may skip this folder.

    cli             how a program starts and ends: UserError, run, heading
    settings        flags, settings files and --help from frozen dataclasses
    files           where the files are; a file is written whole or not at all
    download        files from the network, checked, retried and resumed
    corpora         the texts that models learn from
    tokenizers      text to numbers and back: characters, Tamil letters, bytes, byte pairs
    devices         device, number format, compilation, speed of the fastest matrix product
    runs            a training run and its folder: log, saved state, time budget, Ctrl-C
    muon            the optimizer of chapter 05 for the matrices inside the blocks
    checkpoint      a model's folder: save, load, find
    hub             models from the Hugging Face Hub, and to it
    published       the architecture of the models that were published there before this book
    measures        measures of text, and a mean with its standard error
    figures         matplotlib, the colours of all figures, the loss curve
    views           a text while it is written: in a terminal, as a GIF, as a web page
    tokenized       chapter 12: texts of any size as one file of tokens
    parallel        chapter 12: several processes that act as one
    tamil.letters   the letters of the Tamil script
    tamil.fetching  pages of poetry from the user's folder, data/ or the network
    tamil.pages     the lines of a web page, and the tags around them
    tamil.cleaning  lines of verse, cleaned and corrected
    tamil.madurai   Sangam poetry from the pages of Project Madurai
    tamil.kural     the Kural from its two editions
    tamil.histogram a figure of letters and lengths of lines
"""
