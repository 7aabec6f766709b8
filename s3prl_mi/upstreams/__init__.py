"""Stage 2: a name and a waveform -> hidden states under a view."""
