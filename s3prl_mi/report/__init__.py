"""Stage 6: records -> pictures, tables, pages.

================  ======================================================================================
experiment_files  all files of one experiment: `mi_summary.csv`, `mi_layers.png`, `log.log`, TensorBoard
terminal          tables on the screen: one experiment, or several upstreams under each other
figures/          every picture, as PNG and PDF
html/             `mi_report.html`: one page that opens offline, with all figures
compare/          models next to each other as text, Markdown, LaTeX, CSV; correlation with error rates
board             what each label-free measure is worth, as tables, CSV and words
s3prl_log         what s3prl's own tasks leave: lines in `log.log`, scalars for TensorBoard
wording           how bits, seeds and names are written
published_scores  nothing; PER, WER and the paper's figures, with their sources
s3prl_runs        nothing; PER and WER read from s3prl's own runs
================  ======================================================================================

Only this package rounds; `mi_results.jsonl`, `mi_summary.csv` and the per-layer lines of `log.log` keep full precision.
The best layer that is marked is the largest mean over the layers scored: a description of the eval split, not a
choice that a bound may rest on (a choice of a layer belongs inside the fit split).
"""
