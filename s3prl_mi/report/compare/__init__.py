"""Upstreams side by side: bounds, PER and WER, their correlation, and the paper's figures.

==========  ===================================================================================================
comparable  which figures may stand in one column: filters, refusal
scores      PER and WER of a model: own runs, own table, published
table       the comparison itself, a row for each model
paper       the paper's own figures next to them
outputs     the table on the screen, in CSV, Markdown and LaTeX
==========  ===================================================================================================
"""
