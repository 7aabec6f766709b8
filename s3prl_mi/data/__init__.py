"""Stage 1: folders, manifests -> utterances, waveforms, frame labels.

================  ============================================================================================
utterances        which utterances a split has: LibriSpeech's folders, or the lines of a manifest
splits            a split's utterances with readable headers (`Split`), and the content of their files
audio             an utterance's header and waveform at 16 kHz; unreadable files are counted and skipped
units             discrete units and frame labels, one line per utterance
prosody           pitch and energy at given moments of an utterance
alignments        alignment files -> intervals -> one label per frame; the table of formats
forced_alignment  audio and transcripts -> TextGrids, by PocketSphinx (`s3prl-mi align`)
espeak            eSpeak NG: speech and phonemes of a text, for the demo's corpus and for unknown words
================  ============================================================================================
"""
