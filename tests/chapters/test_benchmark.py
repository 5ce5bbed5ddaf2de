"""benchmark.py in small: its file has what it should, and what goes wrong is one line."""

import json
import subprocess
from types import SimpleNamespace

import pytest
from helpers import ROOT, python, refusal

import benchmark
from plumbing.reports import speed

KEYS = {
    "peak": {"dtype", "tflops", "size"},
    "training": {"settings", "dtype", "mode", "parameters", "batch", "window", "step_seconds", "first_step_seconds",
                 "tokens_per_second", "tflops", "peak_tflops", "utilisation", "memory_mb"},
    "muon": {"settings", "seconds", "share_of_step", "torch_muon_seconds", "torch_muon_ratio"},
    "sampling": {"batch", "characters", "nfe", "seconds", "characters_per_second", "memory_mb", "model"},
    "threads": {"machine", "threads", "chosen_threads", "all_seconds", "one_seconds", "chosen_seconds"},
}
START_UP = {"characters", "steps", "seconds", "model"}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(*flags): (what the benchmark prints, what it writes). Only its first job has a process of its own here."""

    def measure(command, **named):
        if not jobs:
            jobs.append(command)
            return subprocess.run(command, **named)
        rows = speed.measure(json.loads(command[-1]))
        return SimpleNamespace(returncode=0, stdout=json.dumps(rows), stderr="")

    def run(*flags):
        out = tmp_path / "numbers.json"
        benchmark.main([*flags, "--quick", "--device", "cpu", "--out", str(out)])
        return capsys.readouterr().out, out.read_text(encoding="utf-8")

    jobs = []
    monkeypatch.setattr(benchmark, "subprocess", SimpleNamespace(run=measure))
    return run


def test_quick_run_fills_the_table_and_the_file(run, tmp_path):
    printed, written = run()
    report = json.loads(written)
    assert {"machine", "date", "commit", "dirty", "command", "memory", "rows"} == report.keys()
    assert {"cpu", "cores", "threads", "gpu", "system", "torch"} == report["machine"].keys()
    assert report["machine"]["threads"] == 1
    assert report["command"] == "python benchmark.py --quick --device cpu"
    assert str(tmp_path) not in written and str(ROOT) not in written
    kinds = {row["kind"] for row in report["rows"]}
    assert kinds - {"start-up"} == KEYS.keys()  # start-up needs a trained model
    for row in report["rows"]:
        assert "error" not in row, row
        assert (KEYS | {"start-up": START_UP})[row["kind"]] <= row.keys()
        numbers = [value for value in row.values() if type(value) in (int, float)]
        assert numbers and all(value > 0 for value in numbers), row
        if row["kind"] == "training":
            assert 0 < row["utilisation"] < 1.5
            # Three columns that follow from one another.
            assert row["tokens_per_second"] == pytest.approx(row["batch"] * row["window"] / row["step_seconds"])
        if row["kind"] == "sampling":
            assert row["nfe"] == row["steps"]
    assert [row["settings"] for row in report["rows"] if row["kind"] == "training"] == ["laptop", "gpu"]
    for heading in ("best matrix product", "settings", "sampling"):
        assert heading in printed


def test_the_busy_process_ends_with_its_measurement(monkeypatch):
    started, start = [], subprocess.Popen
    monkeypatch.setattr(speed.subprocess, "Popen", lambda *words: started.append(start(*words)) or started[0])
    with pytest.raises(KeyboardInterrupt), speed.busy_core():
        assert started[0].poll() is None
        raise KeyboardInterrupt
    assert started[0].poll() is not None


def test_threads_compares_a_quiet_and_a_busy_machine(run, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for the processes that measure
    rows = json.loads(run("--only", "threads")[1])["rows"]
    assert [row["machine"] for row in rows] == ["quiet", "one core busy"]
    assert all(row["chosen_threads"] == row["threads"] == 1 for row in rows)
    assert all(row[f"{name}_seconds"] > 0 for row in rows for name in ("all", "one", "chosen"))


def test_quick_scale_measures_both_models_and_two_processes(run):
    rows = json.loads(run("--only", "scale")[1])["rows"]
    assert not [row for row in rows if "error" in row], rows
    forward, scaling = ([row for row in rows if row["kind"] == kind] for kind in ("forward", "scaling"))
    grid = {(row["model"], row["batch"], row["length"]): row["nfe"] for row in forward}
    assert len(grid) == 8 and grid["GPT", 2, 16] == 15 and grid["dLLM", 2, 16] == 4
    for row in forward:
        assert row["pass_tokens_per_second"] == pytest.approx(row["batch"] * row["length"] / row["pass_seconds"])
    one, two = scaling
    assert (one["processes"], two["processes"], one["efficiency"]) == (1, 2, 1.0)
    assert two["efficiency"] == pytest.approx(two["tokens_per_second"] / 2 / one["tokens_per_second"])


def test_without_a_compiler_the_row_says_so():
    changes = {"n_layer": 1, "n_head": 1, "n_embd": 16, "seq_len": 16, "batch_size": 2}
    job = {"kind": "training", "settings": "laptop", "dtype": "float32", "mode": "compiled", "changes": changes,
           "device": "cpu", "quick": True, "peak_tflops": 1.0}
    done = python("-m", "plumbing.reports.speed", json.dumps(job), CXX="no-such-compiler")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)
    assert "compiler" in row["error"] and "step_seconds" not in row


@pytest.mark.parametrize("flags", [("--no-such-flag",), ("--only", "moon"), ("--device", "toaster"),
                                   ("--quick", "--out", ROOT), ("--out", ROOT / "no" / "such" / "folder.json")])
def test_a_bad_flag_is_named_and_ends_with_exit_code_2(flags):
    error = refusal(benchmark.main, [str(flag) for flag in flags])
    assert str(flags[0]) in error or "toaster" in error or "--out" in error
