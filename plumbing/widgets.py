"""What the tabs of playground.py share: their layout, errors as messages, a run that is played again, and its files."""

import asyncio
import functools
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from plumbing import checkpoint, cli, devices, files, stage, views

FRAME = 1 / 30  # seconds between two drawings of a text
FLAGS = {"--infill": "the text", "--len": "the length"}  # errors of the chapters name flags; the page has fields
SCRIPT = files.ROOT / "plumbing" / "stage.js"


# 1. What a visitor asks for


def names(*kinds):
    """Return the names of the runs in checkpoints/ of these kinds. Of each kind, yours come first."""
    found = []
    for kind in kinds:
        runs = [path.parent for path in checkpoint.RUNS.glob("*/model.safetensors")]
        runs = [folder for folder in runs if checkpoint.kind_of(folder) == kind]
        own = {folder: folder / "train_state.pt" for folder in runs}
        runs.sort(key=lambda folder: (not own[folder].is_file(), -(folder / "model.safetensors").stat().st_mtime))
        found += [folder.name for folder in runs]
    return found


@functools.cache
def racers():
    """Return {lane of the race: kind of run}, for the kinds that have a run when the page starts."""
    lanes = {"dLLM": "dllm", "GPT": "gpt", "Hybrid": "hybrid"}
    return {label: kind for label, kind in lanes.items() if names(kind)}


def opened(name, *kinds, **classes):
    """Return (model, tokenizer, info) of the run `name`. UserError unless it is a whole run of one of these kinds.

    classes: {kind: class of its models}, for kinds that are not a plain Transformer.
    """
    if name not in names(*kinds):  # a visitor may send any name, and it must not become a path
        raise cli.UserError("this model is not here: choose one from the list, or train one")
    folder = checkpoint.RUNS / name
    own = [classes[kind] for kind in classes if kind == checkpoint.kind_of(folder)]
    return checkpoint.load(folder, devices.pick_device("auto"), *own)


def within(value, low, high, name):
    """Return `value`. UserError if it is not a number from low to high."""
    if not isinstance(value, (int, float)) or not low <= value <= high:
        raise cli.UserError(f"{name} must be a number from {low:g} to {high:,g}")
    return value


# 2. Streams of drawings


def told(work):
    """Make a generator function yield a message instead of raising an error. The server stays up in any case."""

    @functools.wraps(work)
    def wrapped(*values):
        try:
            yield from work(*values)
        except cli.UserError as error:
            text = str(error).replace(f"{checkpoint.RUNS}{os.sep}", "")  # visitors need not know where this is
            text = re.sub("|".join(FLAGS), lambda flag: FLAGS[flag[0]], text)
            yield stage.message(text, wrong=True), *unchanged(1), None
        except Exception as error:
            traceback.print_exc()
            yield stage.message(f"the server cannot do this ({type(error).__name__})", wrong=True), *unchanged(1), None

    return wrapped


def unchanged(count):
    """Return the values of `count` outputs that stay as they are."""
    import gradio

    return [gradio.skip()] * count


def paced(steps, pause=FRAME):
    """Yield those of `steps` that come at least `pause` seconds after the last one."""
    last = -pause
    for step in steps:
        if time.monotonic() - last >= pause:
            last = time.monotonic()
            yield step


def live(run, states):
    """Record `states` in a Run and draw them while they come. Yields (message, texts, [run] when it is finished)."""
    for _ in paced(run.record(states)):
        run.go(len(run.states) - 1)
        yield stage.message("Writing …"), stage.drawing([run]), *unchanged(1)
    for _ in range(2):
        run.go(len(run.states) - 1)  # the second time nothing is new, so nothing is highlighted
    yield stage.message(f"Finished. {run.facts}"), stage.drawing([run]), [run]


async def replay(runs):
    """Draw finished runs side by side, each at its own speed. Yields (message, texts)."""
    began = time.monotonic()
    for run in runs or ():
        run.go(0)
    while runs and not all(run.finished for run in runs):
        for run in runs:
            clock = time.monotonic() - began
            number = sum(second <= clock for second in run.seconds[1:])
            if number != run.number or run.finished:
                run.go(number)
        yield *unchanged(1), stage.drawing(runs)
        await asyncio.sleep(FRAME)
    for run in runs or ():
        run.go(run.number)  # nothing has changed, so nothing is highlighted
    if runs:
        order = sorted(runs, key=lambda run: run.seconds[-1])
        places = ", then ".join(f"{run.labels[0]} after {run.seconds[-1]:.2f} s" for run in order)
        said = stage.message(f"First: {places}.") if runs[0].timed else unchanged(1)[0]
        yield said, stage.drawing(runs)


def keepsakes(runs):
    """Return the player of the first run, and its text, page and GIF as files in the temporary folder."""
    from gradio import DownloadButton

    if not runs:
        return unchanged(4)
    run, folder = runs[0], Path(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"]))
    page = stage.player_page(run)
    contents = {"text.txt": "\n\n".join(run.texts()).encode(), "text.html": page.encode(),
                "text.gif": views.gif_bytes(run.states, run.given.tolist(), run.letters)}
    for name, content in contents.items():
        views.save(folder / name, content)
    return stage.player(run, page), *(DownloadButton(value=folder / name, interactive=True) for name in contents)


# 3. Layout


def head(gr):
    """Lay out the top of the page: a title, and by what to colour the texts, with a legend."""
    gr.HTML("<h1>tiny-dllm</h1><p class=soft>A diffusion language model begins with masks and uncovers the text in any "
            "order. Everything on this page runs on the machine that serves it.</p>", elem_classes="plain")
    with gr.Row(elem_classes="colours"):
        colour = gr.Radio(["nothing", "probability", "pass"], value="nothing", label="Colour each character by",
                          elem_classes="colour")
        gr.HTML(stage.LEGEND, elem_classes="plain")
    colour.change(None, colour, None, js="colour => { document.querySelector('.whole').dataset.colour = colour }")


def buttons(gr, *labels):
    """Lay out a row of buttons, and return them. The first one is the main one; a last one says Stop."""
    with gr.Row(elem_classes="buttons"):
        return [gr.Button(label, variant="secondary" if i else "primary") for i, label in enumerate((*labels, "Stop"))]


def tab(gr, name, labels, length, unit="character", keeps=True):
    """Lay out a tab. gr: the module gradio. labels, length, unit: of the texts, before any is written.

    Returns (column for the inputs, column for the settings, [message, texts, runs], components of `keepsakes`).
    """
    key = name.lower().replace(" ", "-")
    with gr.Tab(name, id=key, render_children=True), gr.Row(elem_classes="desk", elem_id=key):
        asked = gr.Column(elem_classes="ask")
        with gr.Column(elem_classes="shown"):
            said = gr.HTML(stage.message("Ready."), elem_classes="said")
            texts = gr.HTML(stage.masks(labels, length, unit))
            runs, kept = gr.State(), []
            if keeps:
                with gr.Row(elem_classes="keep"):
                    gr.Button("Copy", size="sm").click(None, None, said, js=f"() => copyTexts('{key}')")
                    kept = [gr.DownloadButton(kind, size="sm", interactive=False) for kind in ("Text", "Page", "GIF")]
                kept.insert(0, gr.HTML(elem_classes="last"))
        settings = gr.Column(elem_classes="settings")
    return asked, settings, [said, texts, runs], kept


def connect(triggers, work, inputs, outputs, kept, stop, replayed=False):
    """Let `triggers` start `work`, and the button `stop` end it. The other arguments are those of `tab`.

    Only one run at a time computes. The others wait for it in the order in which they came.
    """
    (said, texts, runs), events, hidden = outputs, [], {"show_progress": "hidden", "api_visibility": "private"}
    for trigger in triggers:
        event = trigger(work, inputs, outputs, concurrency_id="model", concurrency_limit=1, show_progress="minimal",
                        show_progress_on=said)
        events.append(event)
        if replayed:
            event = event.success(replay, runs, [said, texts], concurrency_limit=None, **hidden)
            events.append(event)
        if kept:
            events.append(event.success(keepsakes, runs, kept, concurrency_limit=2, **hidden))
    # The message must come when nothing is cancelled any more: a drawing on its way would overwrite it.
    stop.click(lambda: None, cancels=events, queue=False, **hidden).then(
        lambda: stage.message("Stopped."), None, said, queue=False, **hidden)


def serve(build, host, port):
    """Show the page that build(gr) returns in the browser until Ctrl-C. All files that this makes are temporary.

    host, port: where to listen; None means 127.0.0.1, and the first free port from 7860 on.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder is deleted then, too
    with tempfile.TemporaryDirectory(prefix="playground-", ignore_cleanup_errors=True) as folder:
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
        try:
            import gradio as gr
        except ImportError:
            raise cli.UserError("the page needs gradio: pip install -r requirements.txt") from None
        # Fonts of the system: those of Gradio's usual themes would come from the network.
        theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
        # Gradio inserts `css` twice, once with its own class before each selector. The font must not be there twice.
        inside = f"<style>{stage.font_face()}</style><script>{SCRIPT.read_text(encoding='utf-8')}</script>"
        try:
            build(gr).queue().launch(
                server_name=host, server_port=port, theme=theme, css=stage.style(), share=False, run_history=False,
                head=inside, footer_links=[], enable_monitoring=False, inbrowser=host is None)
        except OSError as error:
            raise cli.UserError(f"cannot listen at {host or '127.0.0.1'}: {error}") from None
