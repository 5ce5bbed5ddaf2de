"""The models in a web page: watch them write, fill blanks, race, and compose a couplet.

    python playground.py                     # opens your browser; works without a network
    python playground.py --host 0.0.0.0      # other machines in your network can open the page too

The page streams the States of the book's samplers. One run at a time uses the processor, and other visitors wait in a
queue. docs/playground.md explains the page, and how to put it on a Hugging Face Space.
"""

import functools
import random
import re
from dataclasses import dataclass
from importlib import import_module

import torch

from plumbing import cli, corpora, files, measures, settings, stage, tokenizers, widgets

diffusion = import_module("04_diffusion")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")
verse = import_module("09_generate_tamil")
fast = import_module("11_fast_decoding")
hybrid = import_module("13_block_diffusion")

LONGEST = 512  # tokens of a text
SAMPLERS = {"default": diffusion.denoise} | {
    order: functools.partial(fast.decode, how=fast.Decoding(order=order)) for order in fast.ORDERS}
WRITERS, FILLERS = ("dllm", "gpt", "hybrid", "tamil"), ("dllm", "tamil")  # kinds of runs
COUPLETS = {  # of the Kural; the model gets their form and writes other letters
    "Kural 1": "அகர முதல எழுத்தெல்லாம் ஆதி\nபகவன் முதற்றே உலகு",
    "Kural 110": "எந்நன்றி கொன்றார்க்கும் உய்வுண்டாம் உய்வில்லை\nசெய்ந்நன்றி கொன்ற மகற்கு",
    "Kural 391": "கற்க கசடறக் கற்பவை கற்றபின்\nநிற்க அதற்குத் தக",
}


# 1. Samplers


@dataclass
class Options:
    """What a visitor chooses for a run. UserError if a value is out of range."""

    sampler: str
    passes: int
    temperature: float
    top_k: int  # 0: all tokens
    seed: str  # a number; empty: a random one

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise cli.UserError("there is no such sampler: choose one from the list")
        self.passes = int(widgets.within(self.passes, 1, LONGEST, "the number of passes"))
        self.temperature = generation.usable_temperature(widgets.within(self.temperature, 0, 2, "the temperature"))
        self.top_k = int(widgets.within(self.top_k, 0, 10**6, "top-k")) or None
        seed = self.seed or str(random.randrange(10**6))
        self.seed = widgets.within(int(seed) if seed.isdecimal() and len(seed) < 20 else None, 0, 2**63 - 1, "the seed")

    def facts(self, name):
        """Return a line that describes a run of the model `name`."""
        return f"{name} · seed {self.seed} · temperature {self.temperature:g} · top-k {self.top_k or 'off'}"

    def stream(self, model, rows):
        """Yield the States in which the model fills the masks of `rows`, B lists of T ids."""
        canvas = torch.tensor(rows, device=next(model.parameters()).device)  # (B, T)
        generator = torch.Generator(canvas.device).manual_seed(self.seed)
        if model.config.causal:
            stream = functools.partial(hybrid.write, steps=None) if isinstance(model, hybrid.Hybrid) else gpt.stream
            return stream(model, canvas, temperature=self.temperature, top_k=self.top_k, generator=generator)
        return generation.generate(
            model, canvas, self.passes, self.temperature, self.top_k, generator, SAMPLERS[self.sampler])


def prompt_ids(prompt, length, model, tokenizer):
    """Return the ids of a prompt and its masks, `length` ints. A GPT without a prompt needs a first token."""
    widgets.within(len(prompt), 0, 20 * LONGEST, "the length of the prompt")
    prompt = prompt or tokenizer.decode([gpt.opening(tokenizer)] * model.config.causal)
    return generation.parse_prompt(prompt, int(widgets.within(length, 1, LONGEST, "the length")), tokenizer)


# 2. What a visitor can do. Each function yields a message, the texts (both as HTML), and the runs when they are whole


@widgets.told
def write(name, prompt, length, *values):
    """Write a text. values: the fields of Options."""
    options = Options(*values)
    model, tokenizer, _ = widgets.opened(name, *WRITERS, hybrid=hybrid.Hybrid)
    ids = prompt_ids(prompt, length, model, tokenizer)
    yield from widgets.live(stage.Run(["Text"], tokenizer, options.facts(name)), options.stream(model, [ids]))


@widgets.told
def fill(name, text, *values):
    """Fill the blanks of a text in four ways. values: the fields of Options."""
    options = Options(*values)
    model, tokenizer, _ = widgets.opened(name, *FILLERS)
    widgets.within(len(text), 0, 20 * LONGEST, "the length of the text")
    if not generation.BLANK.search(text):
        raise cli.UserError("there is no blank: write _ for one character, {20} for twenty, or mark a word")
    ids = generation.parse_infill(text, tokenizer)
    widgets.within(len(ids), 1, LONGEST, "the length of the text")
    run = stage.Run([f"Alternative {i}" for i in (1, 2, 3, 4)], tokenizer, options.facts(name))
    yield from widgets.live(run, options.stream(model, [ids] * 4))


@widgets.told
def race(prompt, length, *values):
    """Let a model of each kind in racers() write alone. values: the fields of Options, then the names of the models."""
    options, runs = Options(*values[:5]), []
    for (label, kind), name in zip(widgets.racers().items(), values[5:]):
        model, tokenizer, info = widgets.opened(name, kind, hybrid=hybrid.Hybrid)
        ids = prompt_ids(prompt or "\n", length, model, tokenizer)
        run = stage.Run([label], tokenizer, options.facts(name), timed=True)
        list(zip(range(2), options.stream(model, [ids])))  # the first pass of a model is slower, so it does not count
        for _ in widgets.paced(run.record(options.stream(model, [ids])), pause=10 * widgets.FRAME):
            yield stage.message(f"{label} writes alone: {len(run.states) - 1} passes …"), *widgets.unchanged(2)
        run.verdict = known_words(run, len(prompt), info)
        runs.append(run)
    yield stage.message("Each has written alone. Here each writes at its own speed."), *widgets.unchanged(1), runs


def known_words(run, start, info):
    """Return the share of known words in a text after its first `start` characters, as text; "" without the corpus."""
    path = files.DATA / "tinyshakespeare.txt"
    if info.get("corpus_sha256") != corpora.SHAKESPEARE_SHA256 or not corpora.is_shakespeare(path):
        return ""
    text = re.sub(r"\S+$", "", run.texts()[0][start:])  # the last word may be cut off
    return f" · {measures.known_words([text], set(measures.words_of(files.read_text(path)))):.0%} known words"


@widgets.told
def compose(name, couplet, temperature, seed):
    """Write a couplet with the form of a real one, letter by letter, and then correct it."""
    options = Options("default", LONGEST, temperature, 0, seed)
    model, tokenizer, _ = widgets.opened(name, "tamil")
    if couplet not in COUPLETS or not isinstance(tokenizer, tokenizers.TamilTokenizer):
        raise cli.UserError("choose a couplet and a Tamil model from the lists")
    rows = verse.couplet_rows([COUPLETS[couplet]], 1, tokenizer, options.seed)
    run = stage.Run([f"The form of {couplet}: 4 + 3 words"], tokenizer, options.facts(name), slice(2, -2))
    with verse.only_letters(model, tokenizer):
        for _ in widgets.paced(run.record(options.stream(model, rows))):
            yield stage.message("Writing …"), *widgets.unchanged(2)
    run.seconds = [0.15 * number for number in range(len(run.states))]  # a pass takes so long
    words = f"First one letter in each pass, then corrections, shown slowly. {run.facts}"
    yield stage.message(words), *widgets.unchanged(1), [run]


# 3. The page


def sampling(gr, length=True):
    """Lay out the length of a text and the fields of Options, and return them. length: False leaves it out."""
    length = [gr.Slider(8, LONGEST, 256, step=1, label="Length", info="tokens, with the prompt")] if length else []
    sampler = gr.Dropdown(list(SAMPLERS), value="default", label="Sampler", info="default: the later passes correct")
    steps, warmth = generation.DEFAULT
    passes = gr.Slider(1, LONGEST, steps, step=1, label="Passes", info="a GPT needs one for each character")
    temperature = gr.Slider(0, 2, warmth, step=0.05, label="Temperature", info="0: always the likeliest token")
    top_k = gr.Slider(0, 100, 0, step=1, label="Top-k", info="how many tokens to choose from; 0: all")
    seed = gr.Textbox(label="Seed", placeholder="random", info="the same number writes the same text")
    return [*length, sampler, passes, temperature, top_k, seed]


def write_tab(gr):
    """Lay out the tab Write. Like the other tabs, it returns {list of models: their kinds}."""
    asked, settings, outputs, kept = widgets.tab(gr, "Write", ["Text"], 256)
    with asked:
        model = gr.Dropdown(widgets.names(*WRITERS), label="Model")
        prompt = gr.Textbox("ROMEO:", label="Prompt", info="how the text begins", lines=2)
        start, stop = widgets.buttons(gr, "Write")
    with settings:
        inputs = [model, prompt, *sampling(gr)]
    widgets.connect([start.click, prompt.submit], write, inputs, outputs, kept, stop)
    return {model: WRITERS}


def fill_tab(gr):
    """Lay out the tab Fill in."""
    asked, settings, outputs, kept = widgets.tab(gr, "Fill in", [f"Alternative {i}" for i in (1, 2, 3, 4)], 60)
    with asked:
        model = gr.Dropdown(widgets.names(*FILLERS), label="Model")
        text = gr.Textbox("My lord, {20} the king.", lines=3, elem_id="blanks", label="Text with blanks",
                          info="_ is one character, {20} is twenty; or mark a word and press Try again here")
        start, again, stop = widgets.buttons(gr, "Fill in", "Try again here")
        with gr.Row(elem_classes="keep"):
            for i in range(4):
                gr.Button(f"Keep {i + 1}", size="sm").click(
                    None, None, text, js=f"() => document.querySelectorAll('#fill-in .text')[{i}].textContent")
    with settings:
        inputs = [model, text, *sampling(gr, length=False)]
    blank = again.click(None, text, text, js="blankOut")
    widgets.connect([start.click, text.submit, blank.success], fill, inputs, outputs, kept, stop)
    return {model: FILLERS}


def race_tab(gr):
    """Lay out the tab Race, with a lane for each of racers()."""
    asked, settings, outputs, kept = widgets.tab(gr, "Race", list(widgets.racers()), 256, keeps=False)
    with asked:
        prompt = gr.Textbox("ROMEO:", label="Prompt", info="how all texts begin", lines=2)
        start, stop = widgets.buttons(gr, "Race")
        gr.HTML('<p class="soft">Each model first writes alone on the machine, because together they would share it. '
                "Then you see them side by side, each at its own speed.</p>")
    with settings:
        models = {gr.Dropdown(widgets.names(kind), label=label): [kind] for label, kind in widgets.racers().items()}
        inputs = [prompt, *sampling(gr), *models]
    widgets.connect([start.click, prompt.submit], race, inputs, outputs, kept, stop, replayed=True)
    return models


def tamil_tab(gr):
    """Lay out the tab Tamil."""
    asked, settings, outputs, kept = widgets.tab(gr, "Tamil", ["Couplet"], 30, "letter")
    with asked:
        model = gr.Dropdown(widgets.names("tamil"), label="Model")
        couplet = gr.Dropdown(list(COUPLETS), label="With the form of", info="its spaces are given, and no letter")
        start, stop = widgets.buttons(gr, "Compose")
    with settings:
        temperature = gr.Slider(0, 2, 0.8, step=0.05, label="Temperature", info="0: always the likeliest letter")
        seed = gr.Textbox(label="Seed", placeholder="random", info="the same number writes the same couplet")
    widgets.connect([start.click], compose, [model, couplet, temperature, seed], outputs, kept, stop, replayed=True)
    return {model: ["tamil"]}


def build(gr):
    """Return the page as gradio.Blocks. gr: the module gradio."""
    with gr.Blocks(title="tiny-dllm", delete_cache=(600, 3600)) as page, gr.Column(elem_classes="whole"):
        widgets.head(gr)
        lists = write_tab(gr) | fill_tab(gr) | race_tab(gr) | tamil_tab(gr)
        page.load(lambda: [gr.Dropdown(choices=widgets.names(*kinds)) for kinds in lists.values()], None, list(lists))
    return page


@dataclass(frozen=True)
class Command:
    """The flags of this program."""

    host: settings.OptionalText = None  # address to listen at; by default 127.0.0.1, which only this machine reaches
    port: settings.number(int, 1, 65535, optional=True) = None  # by default the first free one from 7860 on


def main(argv=None):
    command = settings.parse(Command, argv)
    widgets.serve(build, command.host, command.port)


if __name__ == "__main__":
    cli.run(main, out_of_memory="close other programs that use the GPU, or set CUDA_VISIBLE_DEVICES to nothing")
