"""Alignment files -> intervals -> one label per frame.

Five formats are read, each by the rules of those who write it:

==========  =================================================================================================
textgrid    Praat / Montreal Forced Aligner, one file an utterance, long or short text form, UTF-8 or UTF-16
cpc         ``converted_aligned_phones.txt``: one line an utterance, one integer label every 10 ms
ctm         Kaldi: ``utterance channel start duration label [confidence]``, seconds
phn         TIMIT ``.PHN`` (phones) and ``.WRD`` (words), one file an utterance, samples at 16 kHz
condensed   LibriSpeech ``<speaker>-<chapter>.alignment.txt``: words and their *end* times; no phones
==========  =================================================================================================

Labels are changed in three ways only: every name of silence becomes `sil`, every name of noise or of an
unknown word `spn`, and (by default) an ARPAbet vowel loses its stress digit.

A frame has the label of the interval that holds the centre of its receptive field. A frame in a gap between
intervals, or after the last one, has none (None): the caller drops and counts it.
"""

from __future__ import annotations

from .files import Alignments, match_utterances, open_alignments
from .formats import CPC_STEP, Format, detect_format, read_phn
from .labels import (
    LONGER_TOLERANCE,
    NOISE,
    OVERLAP_TOLERANCE,
    SILENCE,
    Interval,
    check_duration,
    check_intervals,
    frame_labels,
    normalise_label,
)
from .textgrid import read_textgrid

__all__ = [
    "CPC_STEP",
    "LONGER_TOLERANCE",
    "NOISE",
    "OVERLAP_TOLERANCE",
    "SILENCE",
    "Alignments",
    "Format",
    "Interval",
    "check_duration",
    "check_intervals",
    "detect_format",
    "frame_labels",
    "match_utterances",
    "normalise_label",
    "open_alignments",
    "read_phn",
    "read_textgrid",
]
