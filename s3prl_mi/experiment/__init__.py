"""Stage 7: the specification of a run -> records in an experiment's folder."""
