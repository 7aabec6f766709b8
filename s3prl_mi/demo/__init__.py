"""Stage 4, on the side: nothing -> a speech corpus with exact alignments, and two tiny models trained on it.

========  ====================================================================================================
corpus    the corpus in LibriSpeech's layout, by text-to-speech (eSpeak NG): audio, transcripts, TextGrids
phones    what eSpeak reports -> intervals of phones and words
room      microphone, room and noise of a speaker
hubert    a tiny HuBERT from scratch, in the checkpoint layout of s3prl
apc       a tiny APC, likewise
training  what both share: audio, crops, the loop, checkpoints
pretrain  both as a command
========  ====================================================================================================
"""
