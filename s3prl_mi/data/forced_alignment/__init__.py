"""Phone and word alignments from audio and transcripts, on the CPU, by forced alignment with PocketSphinx.

Transcripts (`transcripts`) -> a pronunciation for every word (`pronunciations`, `g2p`) -> one aligned utterance
(`aligner`) -> TextGrids of a whole corpus, in parallel (`corpus`). The command is `align_command`.

Where the time of a frame lies: PocketSphinx hears a window of 25.6 ms every 10 ms. A frame is written as the 10 ms
around the centre of its window (`aligner.FRAME_OFFSET`), which is where this project looks up a frame's label. Tiers
have no gaps; the first interval starts at 0 and the last ends with the audio.
"""

from __future__ import annotations

__all__: list[str] = []
