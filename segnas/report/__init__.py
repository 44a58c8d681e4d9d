"""The report: `write_report` turns the files of a run into one page that a person reads, `write_comparison` those of several.

Read `information.py` (get the information), then `sections.py` and `courses.py` (what is shown); `networks.py` with
`families.py`, `graphs.py` and `trellis.py`, and `plots.py` and `tables.py`, draw; `page.py` puts it together. Of a search by
trials: `trials.py`, then `trial_course.py` with `trial_charts.py` and `scatter.py`. Of several runs: `several.py`, then
`compare.py`.
"""

from segnas.report.compare import write_comparison
from segnas.report.page import write_report

__all__ = ["write_comparison", "write_report"]
