"""Stage 1: alignment files -> intervals -> one label per frame.

=========  ===================================================================================================
formats    the table of formats (`FORMATS`): TextGrid, TIMIT, CPC, CTM, condensed LibriSpeech. Add a format there
textgrid   Praat's TextGrid, read and written
files      which file holds an utterance's alignment, and which utterances have one (`open_alignments`)
labels     intervals, names of silence and noise, checks, one label per frame (`frame_labels`)
=========  ===================================================================================================

Labels are changed in three ways only: every name of silence becomes `sil`, every name of noise or of an
unknown word `spn`, and (by default) an ARPAbet vowel loses its stress digit.

A frame has the label of the interval that holds the centre of its receptive field. A frame in a gap between
intervals, or after the last one, has none (None): the caller drops and counts it.
"""
