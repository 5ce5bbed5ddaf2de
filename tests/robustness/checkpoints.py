"""Attack 2: a model from a stranger, whose files are damaged, forged, or no model at all."""

import json
import os
import pickle
import zipfile

import torch
from forging import TEXTS, Trap, damage, forge, read_safetensors, to_json, write_safetensors
from outcomes import result


def attack(arena, draw):
    """Forge one of the trained models, or a published file, and let a program read it."""
    way = draw.choice((damaged, damaged, header, config, config, config, weights, alien, published, published))
    return way(arena, draw)


def read(arena, draw, name, label):
    """Let one of the programs that read a model of this kind read the run `name`. Returns the Result."""
    size = ("--len", 24, "--seed", 1)
    ways = {
        "dllm": [
            ("06_generate", "--checkpoint", name, "--steps", 4, *size),
            ("06_generate", "--checkpoint", name, "--fast", *size),
            ("11_fast_decoding", "--write", "--checkpoint", name, *size),
            ("plumbing.hub", name, "--export", "out"),
            ("06_generate", "--checkpoint", name, "--steps", 4, *size, "--html", "out.html"),
        ],
        "gpt": [("07_train_gpt", "--write", "--run", name, "--len", 24), ("plumbing.hub", name, "--export", "out")],
        "tamil": [("09_generate_tamil", "--checkpoint", name, "--steps", 4, *size)],
        "scale": [
            ("06_generate", "--checkpoint", name, "--steps", 4, *size),
            ("plumbing.hub", name, "--export", "out"),
        ],
    }
    program, *argv = draw.choice(ways[name])
    return result(f"{label}; {program} {' '.join(map(str, argv))}", arena.run(program, *argv))


def victim(arena, draw):
    """(name, folder) of one of the trained models."""
    name = draw.choice(("dllm", "dllm", "gpt", "tamil", "scale"))
    return name, arena.runs / name


def damaged(arena, draw):
    """Other bytes in one of the two files."""
    name, folder = victim(arena, draw)
    path = folder / draw.choice(("model.safetensors", "model.safetensors", "model.safetensors", "config.json"))
    label, data = damage(path.read_bytes(), draw)
    path.write_bytes(data)
    if path.name == "config.json":  # it is read only where the weights hold no copy of it
        forget_config(folder)
    return read(arena, draw, name, f"{path.name}: {label}")


def forget_config(folder):
    header, rest = read_safetensors((folder / "model.safetensors").read_bytes())
    header.pop("__metadata__", None)
    (folder / "model.safetensors").write_bytes(write_safetensors(header, rest))


def header(arena, draw):
    """Another table of contents in model.safetensors."""
    name, folder = victim(arena, draw)
    path = folder / "model.safetensors"
    table, rest = read_safetensors(path.read_bytes())
    if draw.random() < 0.1:
        label, table = (
            "20,000 empty tensors",
            table | {f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [len(rest)] * 2} for i in range(20_000)},
        )
    else:
        label, table = forge(table, draw)
    path.write_bytes(write_safetensors(table, rest))
    return read(arena, draw, name, f"header: {label}")


def config(arena, draw):
    """Another config, in the weights' file and in config.json."""
    name, folder = victim(arena, draw)
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vocabulary = values["tokenizer"]["vocabulary"]
    if vocabulary and draw.random() < 0.25:
        place = draw.randrange(len(vocabulary))
        letters = [*vocabulary]
        letters[place] = draw.choice([*"\x1b\x07\b\r\x00\x9b\u202e\u2066", *TEXTS])
        values["tokenizer"]["vocabulary"] = letters if isinstance(vocabulary, list) else "".join(letters)
        label = f"vocabulary with {letters[place]!r:.40}"
    elif draw.random() < 0.4:
        part = draw.choice(("model", "tokenizer", "info"))
        label, values[part] = forge(values[part], draw)
        label = f"{part}: {label}"
    else:
        label, values = forge(values, draw)
    text = to_json(values)
    table, rest = read_safetensors((folder / "model.safetensors").read_bytes())
    table["__metadata__"] = {"config": text}
    (folder / "model.safetensors").write_bytes(write_safetensors(table, rest))
    (folder / "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    return read(arena, draw, name, f"config: {label}")


def weights(arena, draw):
    """Valid files whose numbers are not finite, or overflow in the first matrix product."""
    name, folder = victim(arena, draw)
    path = folder / "model.safetensors"
    table, rest = read_safetensors(path.read_bytes())
    value = draw.choice((float("nan"), float("inf"), 3e38, -3e38, 1e30, 1e20, 0.0, 1e-45))
    numbers = torch.frombuffer(bytearray(rest), dtype=torch.float32).clone()
    chosen = torch.rand(len(numbers), generator=torch.Generator().manual_seed(draw.randrange(2**31))) < draw.random()
    numbers[chosen] = value
    path.write_bytes(write_safetensors(table, numbers.numpy().tobytes()))
    return read(arena, draw, name, f"weights of {value}")


def alien(arena, draw):
    """Another kind of file under the name of the weights."""
    name, folder = victim(arena, draw)
    path = folder / "model.safetensors"
    kinds = {
        "a pickle": lambda: path.write_bytes(pickle.dumps(Trap(draw))),
        "a file of torch.save": lambda: torch.save({"model": Trap(draw)}, path),
        "an endless device": lambda: (path.unlink(), os.symlink("/dev/zero", path)),
        "a pipe": lambda: (path.unlink(), os.mkfifo(path)),
        "a folder": lambda: (path.unlink(), path.mkdir()),
        "a link to itself": lambda: (path.unlink(), os.symlink(path, path)),
        "a file of the machine": lambda: (path.unlink(), os.symlink(arena.folder / "secret.txt", path)),
        "a web page": lambda: path.write_text("<html>" * 1000),
        "an archive": lambda: zipfile.ZipFile(path, "w").writestr("model", "x" * 1000),
    }
    kind = draw.choice(list(kinds))
    kinds[kind]()
    return read(arena, draw, name, kind)


def published_model(causal=False, C=16, L=2, H=2, T=8, V=65):
    """The content of a published .pt file, of a tiny size."""
    block = {
        "norm1.weight": (C,),
        "norm1.bias": (C,),
        "norm2.weight": (C,),
        "norm2.bias": (C,),
        "attn.qkv.weight": (3 * C, C),
        "attn.out.weight": (C, C),
        "ff.net.0.weight": (4 * C, C),
        "ff.net.0.bias": (4 * C,),
        "ff.net.2.weight": (C, 4 * C),
        "ff.net.2.bias": (C,),
    }
    shapes = {
        "token_emb.weight": (V + 1, C),
        "pos_emb.weight": (T, C),
        "norm.weight": (C,),
        "norm.bias": (C,),
        "head.weight": (V, C),
    } | {f"blocks.{i}.{key}": size for i in range(L) for key, size in block.items()}
    return {
        "step": 5,
        "vocab_size": V,
        "hidden": C,
        "n_layers": L,
        "n_heads": H,
        "seq_len": T,
        "model": {key: torch.full(size, 0.1) for key, size in shapes.items()},
        "optimizer": {},
    }


def published(arena, draw):
    """A forged file of the format in which the original tiny-dllm published its models."""
    path, saved, label = arena.folder / "attack.pt", published_model(), "whole"
    way = draw.choice(("value", "value", "bytes", "bytes", "trap", "tensor", "name", "compressed"))
    if way == "value":
        label, saved = forge(saved, draw)
    elif way == "trap":
        saved[draw.choice(("model", "step", "optimizer"))] = Trap(draw)
    elif way == "tensor":
        name = draw.choice(list(saved["model"]))
        old = saved["model"][name]
        saved["model"][name] = draw.choice(
            (
                lambda: torch.zeros(1).expand(10**6, 10**6),
                lambda: old.to_sparse(),
                lambda: old.to(torch.complex64),
                lambda: old.double() * 1e300,
                lambda: old.flatten(),
                lambda: old.int(),
                lambda: torch.zeros(0),
                lambda: old * float("nan"),
                lambda: old.half(),
                lambda: torch.nn.Parameter(old),
            )
        )()
        label = f"tensor {name}"
    elif way == "name":
        saved["model"][draw.choice(TEXTS)] = saved["model"].pop(draw.choice(list(saved["model"])))
    torch.save(saved, path, _use_new_zipfile_serialization=draw.random() < 0.9)
    if way == "bytes":
        label, data = damage(path.read_bytes(), draw)
        path.write_bytes(data)
    elif way == "compressed":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
            archive.writestr("archive/data.pkl", bytes(1 << 26))
    return result(f"published .pt: {way}: {label}", arena.run("warm:read_published", path))
