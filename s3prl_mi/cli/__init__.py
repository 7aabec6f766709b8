"""Stage 9: a command line -> the specification of a run."""
