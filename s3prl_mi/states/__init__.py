"""Stage 4: splits x upstream x views -> hidden states of every layer, on disk or in memory."""
