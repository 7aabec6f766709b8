"""Stage 1: folders and manifests -> utterances, waveforms, frame labels."""
