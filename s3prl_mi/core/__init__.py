"""Stage 0: nothing of ours -> what every stage uses.

===========  =================================================================================================
errors       `MIError`, the one exception for mistakes that a user can fix; suggestions for misspelt names
types        units, array shapes, `SAMPLE_RATE`
config       the sections of a run's configuration, checked; the config files that come with the package
split_names  `dev-other@1/2`: parts of splits, and whether two names overlap
files        files written whole or not at all, JSON lines, where this package lies
locks        advisory locks between processes
threads      prefetching, writing in the background
distributed  several processes: who takes which work, barriers, small objects
arithmetic   how processors multiply float32 matrices
words        numbers, durations and columns of a table as a person reads them
===========  =================================================================================================
"""
