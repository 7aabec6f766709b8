"""eSpeak NG through ctypes: a text's phonemes, its audio, and where each phoneme and word starts in it.

Source: eSpeak NG, https://github.com/espeak-ng/espeak-ng (src/include/espeak-ng/speak_lib.h).
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import MIError

# fmt: off
ARPABET: Mapping[str, str] = {
    "p": "P", "b": "B", "t": "T", "d": "D", "k": "K", "g": "G", "m": "M", "n": "N", "N": "NG", "f": "F",
    "v": "V", "T": "TH", "D": "DH", "s": "S", "z": "Z", "S": "SH", "Z": "ZH", "h": "HH", "l": "L",
    "r": "R", "w": "W", "j": "Y", "tS": "CH", "dZ": "JH", "t[": "TH", "t#": "T", "w#": "W", "r-": "R",
    "n-": "N", "?": "T", "I": "IH", "I#": "IH", "E": "EH", "a": "AE", "aa": "AE", "A:": "AA",
    "A@": "AA", "0": "AA", "O:": "AO", "O@": "AO", "o@": "AO", "O": "AO", "V": "AH", "@": "AH",
    "a#": "AH", "@-": "AH", "@L": "L", "3": "ER", "3:": "ER", "@5": "UH", "U": "UH", "U@": "UH",
    "u:": "UW", "u": "UW", "i": "IY", "i:": "IY", "i@": "IH", "eI": "EY", "e@": "EH", "aI": "AY",
    "aI@": "AY", "aU": "AW", "aU@": "AW", "OI": "OY", "oU": "OW", "IR": "ER", "VR": "ER",
}
# fmt: on
"""Phoneme mnemonic without stress marks and variant number -> ARPAbet phone."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """What eSpeak returns for one text.

    Attributes:
        wave: shape (n_samples,), int16, at eSpeak's own rate.
        rate: samples per second (22050).
        phones: (start in ms, mnemonic, position in the text from 0), ordered.
        words: (position in the text from 0, length in characters), ordered.
    """

    wave: NDArray[np.int16]
    rate: int
    phones: tuple[tuple[float, str, int], ...]
    words: tuple[tuple[int, int], ...]


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_void_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))
_WORD, _PHONEME = 1, 7
_SYNCHRONOUS, _PHONEME_EVENTS, _CHARS_UTF8, _END_PAUSE = 2, 1, 1, 0x1000
_RATE, _PITCH = 1, 3
_SEPARATED_BY_UNDERSCORES = ord("_") << 8


class Espeak:
    """eSpeak NG through ctypes. It keeps global state: use `espeak()`, which makes one instance per process.

    Raises:
        MIError: the library or its voices are missing or do not start.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader

            self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
            data = espeakng_loader.get_data_path()
        except (ImportError, OSError) as error:
            raise MIError(f"eSpeak NG cannot be loaded ({error}): pip install espeakng-loader") from error
        # The library exits the whole process if its data is missing, so look first.
        if not Path(data, "phontab").is_file():
            raise MIError(f"eSpeak NG's voices are not in {data}: pip install --force-reinstall espeakng-loader")
        self.rate = int(self._lib.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _PHONEME_EVENTS))
        if self.rate <= 0:
            raise MIError(f"eSpeak NG did not start with the voices in {data} (espeak_Initialize: {self.rate}).")
        # Some voices add breath from a generator that is otherwise seeded by the clock.
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._audio: list[bytes] = []
        self._phones: list[tuple[int, str, int]] = []
        self._words: list[tuple[int, int]] = []
        self._callback = _CALLBACK(self._receive)  # kept: the library holds only a pointer to it
        self._lib.espeak_SetSynthCallback(self._callback)
        self._lib.espeak_TextToPhonemes.restype = ctypes.c_char_p

    def _receive(self, wave: int | None, count: int, events: Any) -> int:
        if wave and count:
            self._audio.append(ctypes.string_at(wave, 2 * count))
        index = 0
        while (event := events[index]).type:
            position = event.text_position - 1
            if event.type == _PHONEME:
                mnemonic = event.id.string.decode("utf-8", "replace")
                self._phones.append((event.audio_position, mnemonic, position))
            elif event.type == _WORD:
                self._words.append((position, event.length))
            index += 1
        return 0

    def _set_voice(self, voice: str) -> None:
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise MIError(f"eSpeak NG has no voice {voice!r}; the installed espeakng-loader may be another version.")

    def phonemes(self, text: str, voice: str) -> list[str]:
        """ESpeak's mnemonics for a text, without audio.

        Raises:
            MIError: no such voice.
        """
        self._set_voice(voice)
        rest, found = ctypes.c_char_p(text.encode()), b""
        while rest.value is not None:  # one clause per call; the pointer ends as NULL
            found += self._lib.espeak_TextToPhonemes(ctypes.byref(rest), _CHARS_UTF8, _SEPARATED_BY_UNDERSCORES)
            found += b"_"
        return re.split(r"[_\s]+", found.decode("utf-8", "replace"))

    def say(self, text: str, voice: str, rate: int, pitch: int) -> Spoken:
        """Synthesise a sentence by a voice and variant (`gmw/en-US+f2`), in words per minute and a pitch of 0 to 100.

        The library varies timing a little with everything it spoke before, so the same text sounds the same only at
        the same place in a process's life.

        Raises:
            MIError: no such voice.
        """
        self._audio, self._phones, self._words = [], [], []
        self._set_voice(voice)
        self._lib.espeak_SetParameter(_RATE, rate, 0)
        self._lib.espeak_SetParameter(_PITCH, pitch, 0)
        raw = text.encode() + b"\0"
        flags = _CHARS_UTF8 | _END_PAUSE
        self._lib.espeak_Synth(raw, ctypes.c_size_t(len(raw)), 0, 1, 0, flags, None, None)
        self._lib.espeak_Synchronize()
        wave = np.frombuffer(b"".join(self._audio), np.int16)
        return Spoken(wave, self.rate, tuple(self._phones), tuple(self._words))


@functools.cache
def espeak() -> Espeak:
    """The process's one instance of the library."""
    return Espeak()
