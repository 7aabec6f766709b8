"""Stage 7: the specification of a run -> records in an experiment's folder.

================  ============================================================================================
spec              `RunSpec`: what one run is asked for; `StockSpec`: one of s3prl's own tasks in a study
run               the story of a run: load, fit or evaluate, show
load              a specification -> the upstream, its precision, the plan, the data (`Experiment`)
plan              the grid of an experiment: layers, views, frames, clusters, probes, seeds
fit               grid points -> probes and records, shared by all processes
evaluate          fitted probes -> records on other splits
records           estimates -> records; also for models in training
folder            an experiment's folder: settings, records, what -a accepts or refuses
saved_probes      fitted probes on disk
task              what both tasks have in common: `GridPoint`, `Fitted`, `MITask`
supervised_task   `mi_supervised`: frame labels
views_task        `mi_views`: codebooks and pairs of frames; the refusal of layers without two views
frame_pairs       rows: of which utterance and speaker, and which are pairs of frames
labels            which label each frame has: phones, words, speaker, pitch, energy
fbank             fbank of the frames of any upstream, for measures
runtime_estimate  roughly how long an experiment will take
study             several upstreams, checkpoints or tasks, s3prl's own too -> runs
jobs              the runs of a study as jobs, on this machine or on SLURM
================  ============================================================================================
"""
