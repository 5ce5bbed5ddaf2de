"""Everything that is not the subject of the book. A reader may skip this folder.

    cli             how a program starts and ends: UserError, run, heading
    foreign         text that strangers wrote, made safe to print
    settings        flags, settings files and --help from frozen dataclasses
    files           where the files are; a file is written whole or not at all
    download        files from the network, checked, retried and resumed
    web             sessions of the library requests, and when to try again
    corpora         the texts that models learn from
    tokenizers      text to numbers and back: characters, Tamil letters, bytes, byte pairs
    devices         device, number format, compilation, speed of the fastest matrix product
    runs            a training run and its folder: log, saved state, time budget, Ctrl-C
    budget          how many steps of a run fit into its time budget
    fitting         the settings file of chapter 05 that fits the machine
    threads         one thread or all of them, by what the machine does
    locks           one process per run, and who holds a run
    states          the one place that checks the files of a run before they are used
    muon            the optimizer of chapter 05 for the matrices inside the blocks
    checkpoint      a model's folder: save, load, find
    blocks          random blocks of a text, and random masks in them, for chapter 13
    buffers         keys and values of passes in which several rows share a position, for chapter 13
    pair            the dLLM and the GPT that chapters 10 and 11 compare
    hub             models from the Hugging Face Hub, and to it
    onnx_export     a model as a file that other programs can run
    published       the architecture of the models that were published there before this book
    sampling        draw tokens from logits, rank scores, measure distances between positions
    measures        measures of text, and a mean with its standard error
    nearness        how near written texts are to real text, in four measures at once
    figures         matplotlib, the colours of all figures, the loss curve
    views           a text while it is written: in a terminal, as a GIF, as a web page
    stage           the texts of the playground as HTML, and the style of its page
    widgets         what the tabs of the playground share
    grids           chapter 14: the rules, an exact solver, a generator, the usual format
    grid_views      a Sudoku while it is being solved
    tokenized       chapter 12: texts of any size as one file of tokens
    parallel        chapter 12: several processes that act as one
    robot_maps      chapter 15: map files, generated maps, A*, collisions
    robot_paths     chapter 15: measures of a path, frames over it, and its files
    smoothers       chapter 15: the smoothers of today's robots, to compare with
    tamil.letters   the letters of the Tamil script
    tamil.fetching  pages of poetry from the user's folder, data/ or the network
    tamil.pages     the lines of a web page, and the tags around them
    tamil.cleaning  lines of verse, cleaned and corrected
    tamil.slips     words that the pages garble, and their right forms
    tamil.sources   the works of the corpus, and whether a page holds one of them
    tamil.madurai   Sangam poetry from the pages of Project Madurai
    tamil.kural     the Kural from its two editions
    tamil.histogram a figure of letters and lengths of lines
    tamil.wikipedia plain text from the articles and dumps of the Tamil Wikipedia

Pages in docs/ that are written from numbers, and the measuring behind them:

    reports.pages                tables, quotations, and writing a page with its figures
    reports.dllm_vs_gpt          chapter 10's article
    reports.comparison_parts     its parts
    reports.comparison_verdicts  which of two results is better, with errors
    reports.comparison_figures   its figures
    reports.data_reuse           the models that it trains on parts of a text
    reports.fast_decoding        chapter 11's page
    reports.decoding_ways        the ways to write that it compares, and their measuring
    reports.block_diffusion      chapter 13's page
    reports.block_measures       the measurements that it reports
    reports.sudoku               chapter 14's page, and its measuring
    reports.sudoku_figures       its figure
    reports.robot_path           chapter 15's page, and its measuring
    reports.scale                what the sizes of chapter 12 need, computed
    reports.variants             ways to train that were tried and are not settings
    reports.student              a dLLM that learns what other dLLMs predict
    reports.ablation             what each ingredient of the training recipe buys
    reports.couplets             how near the written couplets of chapter 09 are to the Kural
    reports.speed                what benchmark.py measures
    reports.wikipedia            time and memory of reading a Wikipedia dump
    reports.model_card           the page that travels with a shared model
    reports.robustness           how the attacks of tests/robustness/ ended
"""
