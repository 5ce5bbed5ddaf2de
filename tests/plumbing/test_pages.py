"""Pages in docs/ that are written from logs hold what the logs hold."""

from plumbing.reports import ablation


def test_the_ablation_page_is_what_the_logs_say():
    assert ablation.PAGE.read_text(encoding="utf-8") == ablation.page(), "python -m plumbing.reports.ablation --page"
    rows = [line for line in ablation.page().splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(ablation.RUNS) and all("±" in row for row in rows[1:])
