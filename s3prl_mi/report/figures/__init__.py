"""Records -> figures fit for a paper, each with its caption, as PNG and PDF: the only place that draws.

Only what is comparable (one `ComparisonKey`) shares an axis. A figure is drawn where its data exist; a function whose
data do not exist returns an empty list. A new figure is a module here; `html.sections` lists the figures of the report.

=================  =====================================================================================
experiment_layers  `mi_layers.png` of one experiment
best_layers        several upstreams next to each other, a bar for the best layer of each (the demo)
layer_curves       bits by layer, a curve per model
checkpoint_curves  bits over the training steps of a series of checkpoints
sweeps             bits by mask pattern, shift, number of clusters
cluster_usage      how evenly the codebook is used
phones             bits of each class, and confusions
score_scatter      bits against PER or WER
groups             (draws nothing) which estimates may share an axis, and what comes first
picture            (draws nothing) size, fonts, colours, curves and axes that all share, and the finished files
=================  =====================================================================================
"""
