"""Stage 0: nothing of ours -> what every stage uses: errors, types, config, files, locks, threads, processes."""
