"""Stage 1: audio and transcripts -> phone and word TextGrids, on the CPU, by PocketSphinx (US English).

==============  ==============================================================================================
pronunciations  how each word may be pronounced: the user's lexicon, PocketSphinx's dictionary, then rules or eSpeak
aligner         one utterance: its audio and words -> its tiers
corpus          transcripts; whole splits in parallel, resumed when interrupted; lists of failures and unknown words
==============  ==============================================================================================

Where the time of a frame lies: PocketSphinx hears a window of 25.6 ms every 10 ms. A frame is written as the 10 ms
around the centre of its window (`aligner.FRAME_OFFSET`), which is where this project looks up a frame's label. Tiers
have no gaps; the first interval starts at 0 and the last ends with the audio.
"""
