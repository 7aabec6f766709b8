"""Stage 3: frames -> bits. Lower bounds of mutual information; plain code of one process, which knows no upstream.

| module | what |
|---|---|
| `arrays` | the two estimators for arrays; `s3prl_mi.estimate_supervised_mi` and `.estimate_view_mi` |
| `mi_supervised`, `mi_views` | the two inequalities: fit on the fit split, score on the eval split |
| `vocabulary` | classes of labels, fixed on the fit split; ranges of pitch and energy |
| `bounds` | entropy, cross-entropy, lower bound, class contributions |
| `frames` | frames of a layer as blocks, standardised, on a device |
| `kmeans` | codebooks of view b |
| `probes` | the registry of probes and protocols; `ProbeSpec`: which to fit and how |
| `fitting` | fits a probe; what is chosen on held-out speakers |
| `intervals` | how sure a bound is: 95 % intervals over speakers |
| `refits` | probes without each group of fit speakers: what their choice adds to an interval |
| `folds` | which frames are held out |
| `logistic`, `network` | the two kinds of probe: L-BFGS, mini-batches |
| `measures/` | other numbers about a layer: ranks, likeness of views, purities of codebooks |
| `probe` | a fitted probe: prediction, state on disk, scores |
"""
