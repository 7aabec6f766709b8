"""Stage 9: a command line -> the specification of a run.

==============  ================================================================================================
run_downstream  the command `run_downstream.py`: our tasks and studies of them
options         its options, which are s3prl's and ours
run_settings    arguments, config and overrides put together; what -a and -e take from an earlier run
stock_run       s3prl's own tasks, by s3prl's own runner, also as parts of a study; SUPERB's PR and ASR prepared
                before and scored after
errors          what a command prints where it fails
study_summary   what stands on the screen after a study
main            the command `s3prl-mi`, whose commands are the modules below
upstreams       names for -u, listed and explained
compare         upstreams side by side with PER and WER
board           label-free measures judged as pickers of layers and checkpoints
report          one HTML file and figures
units           discrete units against phones: PNMI, purities, bits
align           alignments from transcripts
explain         record fields, config keys, measures, the store: printed from their definitions
doctor          checks of the installation
demo            the main job without any download
==============  ================================================================================================
"""
