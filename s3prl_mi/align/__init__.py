"""Phone and word alignments from audio and transcripts, on the CPU, by forced alignment with PocketSphinx.

Transcripts (`transcripts`) -> a pronunciation for every word (`pronunciations`, `g2p`) -> one aligned utterance
(`aligner`) -> TextGrids of a whole corpus, in parallel (`corpus`). The command is `align_command`.

Where the time of a frame lies: PocketSphinx cuts audio into frames of 10 ms. Frame t is what a window of 25.6 ms
that begins at 10 t ms sounds like, so its centre is at 10 t + 12.8 ms; it is written as the interval that has this
centre, see `aligner.FRAME_OFFSET`.
"""

from __future__ import annotations

__all__: list[str] = []
