"""The page: the actions of its buttons, and its four tabs. Set GRADIO_TEMP_DIR before you import this module."""

import asyncio
import copy
import functools
import html
import itertools
import os
import socket
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path
from urllib.parse import parse_qs

from playground import drawing, writing
from plumbing import checkpoint, cli, files

import gradio as gr
import torch
from starlette.middleware import Middleware

verse = import_module("09_generate_tamil")

FRAME = 1 / 30  # seconds between two drawings of a text
AT_ONCE, WAITING = 4, 40  # how many texts are written at once, and how many more requests can wait
PATIENCE = 2  # seconds within which a visitor's browser must begin to listen
SESSIONS = 100  # number of visitors for whom Gradio keeps what the page shows
LONGEST = 300  # time limit for a text in seconds, including the turns of other texts
WRITERS, FILLERS = ("dllm", "gpt", "hybrid", "tamil"), ("dllm", "tamil")  # kinds of models
RACERS = {"dllm": "dLLM", "gpt": "GPT", "hybrid": "Hybrid"}
FOUR = [f"Alternative {number}" for number in (1, 2, 3, 4)]
COUPLETS = {  # couplets of the Kural; the model gets their form and writes other letters
    "Kural 1": "அகர முதல எழுத்தெல்லாம் ஆதி\nபகவன் முதற்றே உலகு",
    "Kural 110": "எந்நன்றி கொன்றார்க்கும் உய்வுண்டாம் உய்வில்லை\nசெய்ந்நன்றி கொன்ற மகற்கு",
    "Kural 391": "கற்க கசடறக் கற்பவை கற்றபின்\nநிற்க அதற்குத் தக",
}


# 1. What a visitor can do. Each function yields the first outputs of its tab: a message, texts, …


def write(name, prompt, length, sampler, passes, temperature, top_k, seed):
    """Write a text."""
    options = writing.Options(sampler, passes, temperature, top_k, seed)
    model, tokenizer, _ = writing.opened(name, *WRITERS)
    canvas = writing.prompt_canvas(prompt, length, model, tokenizer)
    recording = writing.Recording(canvas, tokenizer, ["Text"], options.facts(name))
    yield from live(recording, options.states(writing.quick(model, name), canvas), options.seed)


def fill(name, text, sampler, passes, temperature, top_k, seed):
    """Fill the blanks of a text in four ways."""
    options = writing.Options(sampler, passes, temperature, top_k, seed)
    model, tokenizer, _ = writing.opened(name, *FILLERS)
    canvas = writing.infill_canvas(text, len(FOUR), model, tokenizer)
    recording = writing.Recording(canvas, tokenizer, FOUR, options.facts(name))
    yield from live(recording, options.states(writing.quick(model, name), canvas), options.seed)


def compose(name, couplet, temperature, seed):
    """Write a couplet in the form of a real couplet, one letter per pass. Then correct the new couplet."""
    options = writing.Options("with correction", writing.LONGEST, temperature, 0, seed)
    model, tokenizer, _ = writing.opened(name, "tamil")
    model = copy.deepcopy(model)  # limit only a copy to letters, because all visitors share the original
    canvas = torch.tensor([verse.blank_couplet(COUPLETS[couplet], tokenizer)], device=model.head.weight.device)
    label = f"The form of {couplet}: 4 + 3 words"
    poem = slice(2, -2)  # without the empty lines around it
    recording = writing.Recording(canvas, tokenizer, [label], options.facts(name), poem)
    with verse.only_letters(model, tokenizer):
        yield from live(recording, options.states(model, canvas), options.seed, pause=0.15)


def live(recording, states, seed, pause=0):
    """Draw texts while a model writes them. Then show a player, which visitors can also download.

    Wait `pause` seconds after each pass.
    """
    drawn = 0
    for _ in paced(recording.record(states, seed)):
        yield drawing.message("Writing …"), drawing.texts([recording], [drawn])
        drawn = recording.passes
        time.sleep(pause)
    said = drawing.message(f"Finished. {recording.facts}")
    texts = drawing.texts([recording], [recording.passes])
    with tempfile.TemporaryDirectory() as folder:  # Gradio copies the page before it asks for the next value
        page = drawing.save(recording, Path(folder) / "text.html")
        player = drawing.player(page, recording.canvas.shape[1])
        yield said, texts, player, gr.DownloadButton(value=page, interactive=True)


def race(prompt, length, sampler, passes, temperature, top_k, seed, *names):
    """Let models write side by side, each at its own speed."""
    options = writing.Options(sampler, passes, temperature, top_k, seed)
    writers, infos = {}, []
    for name in names:
        model, tokenizer, info = writing.opened(name, *RACERS)
        canvas = writing.prompt_canvas(prompt or "\n", length, model, tokenizer)
        model = writing.quick(model, name)
        for _ in itertools.islice(writing.in_turn(options.states(model, canvas), options.seed), 2):
            pass  # the first passes of a model are slower, so they don't count
        recording = writing.Recording(canvas, tokenizer, [RACERS[info.get("kind", "dllm")]], options.facts(name))
        writers[recording] = recording.record(options.states(model, canvas), options.seed)
        infos.append(info)
    recordings = list(writers)
    drawn = [0] * len(recordings)
    for _ in paced(writing.take_turns(writers)):
        for recording in recordings:
            recording.remark = f" · {recording.speed}"
        yield drawing.message("Writing …"), drawing.texts(recordings, drawn)
        drawn = [recording.passes for recording in recordings]
    for recording, info in zip(recordings, infos):
        recording.remark = f" · {recording.speed}{writing.known_words(recording.texts[0][len(prompt) :], info)}"
    order = sorted(recordings, key=lambda recording: recording.seconds)
    places = ", then ".join(f"{recording.labels[0]} after {recording.seconds:.2f} s" for recording in order)
    everything = [recording.passes for recording in recordings]
    yield drawing.message(f"First: {places}."), drawing.texts(recordings, everything)


def paced(steps):
    """Yield only steps that are at least FRAME seconds apart, and skip all other steps."""
    last = -FRAME
    for step in steps:
        if time.monotonic() - last >= FRAME:
            last = time.monotonic()
            yield step


def answering(work, outputs):
    """Return a function like `work` that yields exactly `outputs` values each time.

    Missing values leave the page unchanged. An exception becomes a message on the page, and the server keeps running.
    """

    @functools.wraps(work)
    def answer(*values):
        end = time.monotonic() + LONGEST
        try:
            for first in work(*values):
                yield *first, *[gr.skip()] * (outputs - len(first))
                if time.monotonic() > end:
                    raise cli.UserError(f"a text has {LONGEST} seconds: choose fewer passes, or a shorter text")
        except Exception as error:
            yield drawing.message(explanation(error), wrong=True), *[gr.skip()] * (outputs - 1)

    return answer


def explanation(error):
    """Return an error message for visitors. It names no flags and no folders of the server."""
    if not isinstance(error, (cli.UserError, FloatingPointError)):
        traceback.print_exception(error)
        return f"the server cannot do this ({type(error).__name__})"
    line = str(error).replace(f"{files.RUNS}{os.sep}", "")
    return line.replace("--infill", "the text").replace("--len", "the length")


# 2. The page


def choices(kinds):
    """Return the settings of a drop-down list of models. If the first model is your own, a remark says so."""
    names = writing.names(*kinds)
    remark = None
    if names:
        shipped = checkpoint.KINDS[checkpoint.kind_of(files.RUNS / names[0])][1]
        if names[0] != shipped:
            remark = f"{html.escape(names[0])} is yours. The shipped model is {shipped}."
    return {"choices": names, "value": names[0] if names else None, "info": remark}


def model_list(kinds, label="Model"):
    """Return a drop-down list of models. The list is updated whenever somebody opens the page."""
    found = gr.Dropdown(label=label, render=False, **choices(kinds))
    gr.on(None, lambda: gr.Dropdown(**choices(kinds)), None, found, show_progress="hidden", api_visibility="private")
    return found


def prompt_field():
    return gr.Textbox("ROMEO:", label="Prompt", info="how the text begins", lines=2, render=False)


def length_field():
    return gr.Slider(8, writing.LONGEST, 256, step=1, label="Length", info="tokens, with the prompt", render=False)


def temperature_field(usual):
    return gr.Slider(0, 2, usual, step=0.05, label="Temperature", info="0: always the most likely token", render=False)


def seed_field():
    return gr.Textbox(label="Seed", placeholder="random", info="the same number writes the same text", render=False)


def sampling():
    """Return the input fields for Options. Their default values make writing fast."""
    samplers = list(writing.SAMPLERS)
    return [
        gr.Dropdown(samplers, value=samplers[0], label="Sampler", info="with correction: the later passes correct",
                    render=False),
        gr.Slider(1, writing.LONGEST, 32, step=1, label="Passes", info="a GPT needs one for each character",
                  render=False),
        temperature_field(0.85),
        gr.Slider(0, 100, 0, step=1, label="Top-k", info="how many tokens to choose from; 0: all", render=False),
        seed_field(),
    ]


def tab(name, work, asked, settings, labels, size, unit="character", note="Ready.", offers=True):
    """Lay out a tab with input fields, outputs and settings. Return the column with the input fields.

    The components in `asked` and `settings` hold the arguments of `work`. `labels` are the labels of the texts that
    `work` yields. At first, each text shows `size` masks. `unit` is the word for one token. `note` is the first
    message of the tab. If `offers` is true, the tab also shows a player, and visitors can download a page that contains
    this player.
    """
    key = name.lower().replace(" ", "-")
    with gr.Tab(name, id=key, render_children=True), gr.Row(elem_classes="desk", elem_id=key):
        with gr.Column(elem_classes="ask") as column:
            for field in asked:
                field.render()
            with gr.Row(elem_classes="buttons"):
                start = gr.Button(name, variant="primary")
                stop = gr.Button("Stop")
        with gr.Column(elem_classes="shown"):
            said = gr.HTML(drawing.message(note), elem_classes="said")
            outputs = [said, gr.HTML(drawing.masks(labels, size, unit))]
            if offers:
                with gr.Row(elem_classes="keep"):
                    gr.Button("Copy", size="sm").click(None, None, said, js=f"() => copyTexts('{key}')")
                    page = gr.DownloadButton("Page", size="sm", interactive=False)
                outputs += [gr.HTML(elem_classes="last"), page]
        with gr.Column(elem_classes="settings"):
            for field in settings:
                field.render()
    running = gr.on(
        [start.click] + [field.submit for field in asked if isinstance(field, gr.Textbox)],
        answering(work, len(outputs)), [*asked, *settings], outputs, concurrency_id="texts", concurrency_limit=AT_ONCE,
        show_progress="minimal", show_progress_on=said)
    # Show the message only when everything is cancelled, because a late drawing would overwrite it.
    hidden = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    stopped = stop.click(lambda: None, cancels=running, **hidden)
    stopped.then(lambda: drawing.message("Stopped."), None, said, **hidden)
    return column


def tabs():
    """Lay out all tabs."""
    tab("Write", write, [model_list(WRITERS), prompt_field()], [length_field(), *sampling()], ["Text"], 256)
    text = gr.Textbox("My lord, {20} the king.", lines=3, elem_id="blanks", label="Text with blanks", render=False,
                      info="_ is one character, {20} is twenty; or mark a word and press Try again here")
    with tab("Fill in", fill, [model_list(FILLERS), text], sampling(), FOUR, 60):
        again = gr.Button("Try again here")
        again.click(None, text, text, js="blankOut").success(
            None, js="() => document.querySelector('#fill-in .primary').click()")
        with gr.Row(elem_classes="keep"):
            for i in range(len(FOUR)):
                gr.Button(f"Keep {i + 1}", size="sm").click(
                    None, None, text, js=f"() => document.querySelectorAll('#fill-in .text')[{i}].textContent")
    racers = [model_list([kind], name) for kind, name in RACERS.items()]
    note = ("The models take turns. The next pass always goes to the model that has used the least time so far. So you "
            "see the real speed of each model, in slow motion.")
    tab("Race", race, [prompt_field()], [length_field(), *sampling(), *racers], RACERS.values(), 256, note=note,
        offers=False)
    couplet = gr.Dropdown(list(COUPLETS), label="With the form of", info="its spaces are given, and no letter",
                          render=False)
    settings = [temperature_field(0.8), seed_field()]
    tab("Compose", compose, [model_list(["tamil"]), couplet], settings, ["Couplet"], 30, "letter")


def build():
    """Return the page as gradio.Blocks. Gradio deletes downloadable files after an hour."""
    with gr.Blocks(title="tiny-dllm", delete_cache=(600, 3600)) as page, gr.Column(elem_classes="whole"):
        gr.HTML("<h1>tiny-dllm</h1><p class=soft>A diffusion language model begins with masks and uncovers the text in "
                "any order. Everything on this page runs on the machine that serves it.</p>", elem_classes="plain")
        with gr.Row(elem_classes="colours"):
            colour = gr.Radio(["nothing", "probability", "pass"], value="nothing", label="Colour each character by",
                              elem_classes="colour")
            gr.HTML(drawing.LEGEND, elem_classes="plain")
        colour.change(None, colour, js="colour => { document.querySelector('.whole').dataset.colour = colour }")
        tabs()
    return page


# 3. The server


class Listening:
    """Middleware that drops the requests of a session if nobody listens to the session.

    Without this class, somebody could ask for thousands of texts and never listen. The requests would fill the queue,
    and then the memory.
    """

    def __init__(self, app, queue):
        self.app, self.queue = app, queue
        self.heard = set()  # the sessions that somebody listens to

    async def __call__(self, scope, receive, send):
        method, path = scope.get("method"), scope.get("path", "")
        if not path.startswith(("/gradio_api/queue/", "/gradio_api/call/")):
            method = None
        if method == "GET":
            last = path.rpartition("/")[2]
            session = parse_qs(scope["query_string"].decode()).get("session_hash", [last])[0]
            self.heard.add(session)
            try:
                await self.app(scope, receive, send)
            finally:
                self.heard.discard(session)
                await self.forget({session})
            return
        await self.app(scope, receive, send)
        if method == "POST":
            waiting = set(self.queue.pending_messages_per_session)
            await asyncio.sleep(PATIENCE)
            await self.forget(waiting)

    async def forget(self, sessions):
        """Drop the requests of those `sessions` to which nobody listens."""
        for session in sessions - self.heard:
            await self.queue.clean_events(session_hash=session)
            self.queue.pending_messages_per_session.pop(session, None)


def serve(host, port, **options):
    """Serve the page until Ctrl-C. The server accepts no uploads.

    `host` and `port` say where to listen. The default is the host 127.0.0.1 and the first free port from 7860 upwards.
    `options` are further arguments for Gradio's `launch`.
    """
    # We use fonts of the system, because Gradio would load the fonts of its usual themes from the network.
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        socket.create_server((host or "127.0.0.1", port or 0)).close()  # Gradio would try every port of a wrong host
        page = build().queue(max_size=WAITING, api_open=False)
        return page.launch(
            server_name=host, server_port=port, theme=theme, css=drawing.style(), head=drawing.head(), footer_links=[],
            max_file_size=0, state_session_capacity=SESSIONS, share=False,
            run_history=False, enable_monitoring=False,
            app_kwargs={"middleware": [Middleware(Listening, queue=page._queue)]}, **options)
    except OSError as error:
        raise cli.UserError(f"cannot listen at {host or '127.0.0.1'}: {error}") from None
