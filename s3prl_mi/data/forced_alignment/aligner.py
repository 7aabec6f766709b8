"""One utterance: its audio and its words -> where each word and phone lies, by PocketSphinx.

Two passes of Viterbi: the first places words and chooses between pronunciations, the second places the phones of that
choice. PocketSphinx: https://github.com/cmusphinx/pocketsphinx (Decoder.set_align_text, Decoder.set_alignment).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import MIError
from ...core.types import SAMPLE_RATE, Seconds, Waveform
from ..alignments.labels import NOISE, SILENCE, Interval
from .pronunciations import VARIANT

DICTIONARY = "cmudict-en-us.dict"
"""In `model_folder()`."""

FRAME: Seconds = 0.01
"""From one of PocketSphinx's frames to the next."""

FRAME_OFFSET: Seconds = 125 / SAMPLE_RATE
"""Where frame t begins, less t * FRAME: 7.8 ms.

A frame is a window of 410 samples (25.6 ms) from sample 160 t, so its centre is 205 samples after that, and the border
between two frames is half a step (80 samples) before the centre. Writing t * FRAME itself, as PocketSphinx's and
Kaldi's own tools do, puts every boundary early: by 9 ms against the exact times of the demo's speech.
"""

_BEAMS = (1e-100, 0.0)
"""Paths that much less probable than the best one are given up. PocketSphinx's own value (1e-48) is made for fast
recognition. 0 gives up none and takes half as long again; it is for utterances that find no path else."""

_FILLER_PHONES = {"SIL": SILENCE, "+NSN+": NOISE, "+SPN+": NOISE}
_FILLER_WORDS = {"<s>": "", "</s>": "", "<sil>": "", "[NOISE]": "<unk>", "[SPEECH]": "<unk>"}


class AlignmentError(Exception):
    """One utterance that cannot be aligned; the message is the cause."""


def model_folder() -> Path:
    """Folder of PocketSphinx's US-English model and dictionary.

    Raises:
        MIError: PocketSphinx is not installed, or without its model.
    """
    if importlib.util.find_spec("pocketsphinx") is None:
        raise MIError("s3prl-mi align needs PocketSphinx: pip install 's3prl_mi[align]' (or pip install pocketsphinx)")
    import pocketsphinx

    folder = Path(pocketsphinx.get_model_path("en-us"))
    if not (folder / DICTIONARY).is_file():
        raise MIError(
            f"PocketSphinx's US-English dictionary is not in {folder}: pip install --force-reinstall pocketsphinx "
            "(and unset POCKETSPHINX_PATH, if it is set)"
        )
    return folder


class Aligner:
    """PocketSphinx with a dictionary of its own. Results do not depend on what was aligned before.

    Args:
        dictionary: file as `pronunciations.write_dictionary` writes it; has every word to be aligned.

    Raises:
        MIError: PocketSphinx is missing or does not start.
    """

    def __init__(self, dictionary: Path) -> None:
        self._hmm, self._dictionary = str(model_folder() / "en-us"), str(dictionary)
        self._decoders: dict[float, Any] = {}
        self._decoder(_BEAMS[0])

    def _decoder(self, beam: float) -> Any:
        import pocketsphinx

        if beam not in self._decoders:
            try:
                self._decoders[beam] = pocketsphinx.Decoder(
                    hmm=self._hmm,
                    dict=self._dictionary,
                    lm=None,
                    loglevel="FATAL",
                    beam=beam,
                    wbeam=beam,
                    pbeam=beam,
                    # The lattice's best path can leave a word less time than its phones need: pass two then fails.
                    bestpath=False,
                )
            except (RuntimeError, ValueError) as error:
                raise MIError(
                    f"PocketSphinx does not start ({error}); its model is in {self._hmm}, its dictionary is "
                    f"{self._dictionary}."
                ) from error
        return self._decoders[beam]

    def align(self, wave: Waveform, words: list[str]) -> dict[str, list[Interval]]:
        """Align one utterance.

        Args:
            wave: shape (n_samples,).
            words: what is spoken, at least one, each in the dictionary.

        Returns:
            The tiers `words` (silence is the empty label, noise `<unk>`) and `phones` (ARPAbet without stress; silence
            is `sil`, noise `spn`), each without gaps from 0 to the end of the audio.

        Raises:
            AlignmentError: no path through the audio has these words.
        """
        samples = np.clip(np.rint(wave * 32768), -32768, 32767).astype("<i2").tobytes()
        for beam in _BEAMS:
            try:
                entries = _two_passes(self._decoder(beam), samples, " ".join(words))
            except RuntimeError:
                del self._decoders[beam]  # a pass that failed leaves it amid an utterance
                continue
            found = [(entry.start, _FILLER_WORDS.get(entry.name, VARIANT.sub("", entry.name))) for entry in entries]
            if [name for _, name in found if name not in _FILLER_WORDS.values()] == words:
                phones = [(p.start, _FILLER_PHONES.get(p.name, p.name)) for entry in entries for p in entry]
                return {"words": contiguous(found, wave.size), "phones": contiguous(phones, wave.size)}
        raise AlignmentError(
            f"no path through {wave.size / SAMPLE_RATE:.2f} s of audio has all {len(words)} words of the transcript "
            "(another text, or too much of it?)"
        )


def _two_passes(decoder: Any, samples: bytes, text: str) -> Any:
    """PocketSphinx's entries for the words, each of which holds its phones; a RuntimeError if there is no path."""
    for prepare in (lambda: decoder.set_align_text(text), decoder.set_alignment):
        prepare()
        decoder.start_stream()  # forget the noise level of the last utterance
        decoder.start_utt()
        decoder.process_raw(samples, full_utt=True)
        decoder.end_utt()
    return decoder.get_alignment() or ()


def contiguous(starts: list[tuple[int, str]], n_samples: int) -> list[Interval]:
    """Intervals without gaps, from 0 to the end of the audio.

    The last frame ends up to 26 ms before the audio does, as a window must fit in; the last interval takes the rest.
    Neighbouring silences become one.

    Args:
        starts: (first frame, label), ordered.
        n_samples: of the audio at 16 kHz.
    """
    merged: list[tuple[int, str]] = []
    for start, label in starts:
        if not (merged and label == merged[-1][1] and label in ("", SILENCE)):
            merged.append((start, label))
    times = [start * FRAME + FRAME_OFFSET if place else 0.0 for place, (start, _) in enumerate(merged)]
    ends = [*times[1:], n_samples / SAMPLE_RATE]
    return [Interval(s, e, label) for s, e, (_, label) in zip(times, ends, merged, strict=True)]
