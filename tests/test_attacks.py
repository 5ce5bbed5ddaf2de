"""Every attack of tests/attacks.py ends soon, in one line with exit code 2, and changes no file."""

import re
import shlex
import shutil
import signal
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path

import tamil_dataset
import tamil_wikipedia
from attacks import ALL
from fault_server import FaultServer
from helpers import COMMANDS, ROOT, made_up_text, make_model, write_settings
from plumbing import checkpoint, cli, files, hub, text

import pytest
import tyro

SECONDS, MEGABYTES = 20, 400  # what one attack may take
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has no alarm")


class TooLong(BaseException):
    """Raised by the alarm. It is not a subclass of Exception, so that no program handles it."""


@pytest.fixture(scope="module")
def furnished(tmp_path_factory):
    """A folder with everything that the programs read: a text, settings, a map, a run, and a model of every kind."""
    folder = tmp_path_factory.mktemp("furnished")
    with pytest.MonkeyPatch.context() as patch:
        for module in (files, checkpoint, hub):
            patch.setattr(module, "RUNS", folder / "checkpoints")
        patch.chdir(folder)
        Path("text.txt").write_text(made_up_text())
        write_settings(Path("tiny.yaml"), steps=2, evaluations=1)
        import_module("05_train").main("--corpus text.txt --config tiny.yaml --device cpu --run run".split())
    for kind in checkpoint.KINDS:
        checkpoint.save(folder / "checkpoints" / kind, make_model(3), text.Characters("abc"), {"kind": kind})
    run = folder / "checkpoints" / "run"
    for name in ("state.pt", "model.safetensors"):
        shutil.copy(run / name, run / f"kept{Path(name).suffix}")
    room = (ROOT / "docs" / "maps" / "room.yaml").read_text()
    (folder / "room.yaml").write_text(room.replace("room.pgm", "map.pgm"))
    shutil.copy(ROOT / "docs" / "maps" / "room.pgm", folder)
    for name in ("data", "pages"):
        (folder / name).mkdir()
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that holds a secret, and a copy of the folder `furnished`."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture
def inside(place, furnished, monkeypatch):
    """A copy of the folder `furnished`, in which the programs run. No program waits, and pip downloads nothing."""
    (place / "secret.txt").write_text("a secret")
    folder = place / "inside"
    if not folder.exists():
        shutil.copytree(furnished, folder)
    monkeypatch.chdir(folder)
    for module in (files, checkpoint, hub):
        monkeypatch.setattr(module, "RUNS", folder / "checkpoints")
    monkeypatch.setattr(files, "DATA", folder / "data")
    monkeypatch.setattr(tamil_dataset, "FILE", folder / "data" / "tamil.txt")
    monkeypatch.setattr(tamil_wikipedia, "TEXT", folder / "data" / "tamil_wikipedia.txt")
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(files, "fetch_wheel", no_package)
    monkeypatch.setattr(tyro, "cli", partial(without_help, tyro.cli))
    yield folder
    if contents(folder) != contents(furnished):
        shutil.rmtree(folder)


def without_help(parse, *arguments, config, **named):
    """Call tyro without help texts. Reading these texts from the source code takes most of tyro's time."""
    return parse(*arguments, config=(*config, tyro.conf.HelptextFromCommentsOff), **named)


def no_package(requirement, sha256):
    raise cli.UserError(f"pip cannot download {requirement}")


@pytest.fixture
def alarm():
    def stop(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def peak():
    """The largest memory of this process since `forget_peak`, in megabytes, or 0 if the system cannot tell."""
    status = Path("/proc/self/status")
    return int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) >> 10 if status.exists() else 0


def forget_peak():
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def contents(folder):
    """All files in a folder, {path: bytes or target of a link}. Locks and chapter 12's cache are left out."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = path.readlink()
        elif path.is_file() and not path.name.startswith(".") and path.parent.name != "tokens":
            found[name] = path.read_bytes() if path.stat().st_size < 1 << 24 else path.stat().st_size
    return found


def put(attack):
    """Write the file of an attack."""
    path = Path(attack.path)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if isinstance(attack.make, (bytes, str)):
        path.write_bytes(attack.make if isinstance(attack.make, bytes) else attack.make.encode())
    else:
        attack.make(path)


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: ascii(attack.name))
def test_attack(attack, place, inside, monkeypatch, capsys, alarm):
    if attack.path:
        put(attack)
    with FaultServer(lambda request: attack.answer) if attack.address else nullcontext() as server:
        if server:
            module, name = attack.address.rsplit(".", 1)
            monkeypatch.setattr(import_module(module), name, server.url)
        program, *words = shlex.split(attack.command)
        main = import_module(program).main
        before = contents(place)
        forget_peak()
        memory = peak()
        code = 0
        try:
            cli.run(lambda: main(words))
        except SystemExit as end:
            code = end.code
        memory = peak() - memory
    out, err = capsys.readouterr()
    after = contents(place)
    executed = list(place.rglob("EXECUTED"))
    err = re.sub(r"\r|\x1b\[A", "\n", err)  # a progress bar goes back to the beginning of its line, and one line up
    assert not COMMANDS.search((out + err).replace("\n", "")) and "a secret" not in out + err
    assert memory < MEGABYTES and not executed
    assert [name for name in after if not name.startswith("inside/")] == ["secret.txt"]
    assert after["secret.txt"] == b"a secret"
    if attack.said is None:
        assert code == 0
        return
    assert code == 2 and attack.said in err and len(err) < 5000 and after == before
    lines = [line for line in err.splitlines() if line.strip()]
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:] or "For full helptext" in err
