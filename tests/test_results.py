"""docs/results.md: the page agrees with the results of the trainings."""

import json

from experiments import pages, results


def test_the_page_is_what_the_trainings_left():
    assert pages.read("results") == json.loads(json.dumps(results.collect())), "python -m experiments.results"


def test_no_number_of_a_shipped_model_is_from_a_commit_that_nobody_has():
    again = results.read_json(results.pages.AGAIN)
    for name in results.SHIPPED:
        config, _ = results.shipped_model(name)
        commits = config["info"]["commit"], again.get(name, {}).get("commit", "")
        assert any(commit and "dirty" not in commit for commit in commits)


def test_a_line_counts_what_the_model_has_read():
    info = {"kind": "sudoku", "step": 10, "train": {"batch_size": 4, "accumulate": 2}, "seconds": 90.0,
            "machine": "A, x86_64, 4 cores, 1 threads", "NELBO": 0.5, "error": 0.01, "again": "def"}
    config = {"info": info, "model": {"seq_len": 250}}
    assert results.row(config, 1_234_567, "sudoku", "page") == [
        "sudoku", "1.23M", "80 grids", "1.5 min", "A, 4 cores, 1 thread", "NELBO 0.500 ± 0.010 per blank †", "page"]
    del info["again"]
    text = config | {"info": info | {"kind": "gpt", "step": 1000}}
    assert results.row(text, 1, "", "")[2::3] == ["2.0M characters", "NELBO 0.500 ± 0.010 per character"]
