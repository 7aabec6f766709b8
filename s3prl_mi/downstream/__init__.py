"""Stage 8: s3prl's runner -> ours.

=============  ===============================================================================================
hook           how a stock s3prl knows our tasks, and finds what its wheel lacks, without being changed
arguments      s3prl's arguments and config -> `RunSpec`, for both entry points
expert         what s3prl's runner expects of a task
reuse          stock tasks with a frozen upstream whose hidden states come from the store (`--reuse_states`)
mi_supervised  `DownstreamExpert`, where s3prl looks for it
mi_views       `DownstreamExpert`, where s3prl looks for it
=============  ===============================================================================================
"""
