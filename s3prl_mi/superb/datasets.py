"""`s3prl.downstream.ctc.corpus.libriphone` and `.librispeech`, which s3prl from PyPI lacks.

Written from what s3prl's ctc/data.py expects of them: an item is a batch of (path, tokens) where `bucket_size` is above
1, else one such pair; utterances are sorted from long to short texts, and batch i begins at utterance i, so that an
epoch has as many batches as utterances. s3prl makes a new dataset for each epoch; what it is made of is cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from .targets import character_targets, phone_targets

Item = tuple[str, list[int]]
"""Audio file, tokens."""


class _Sorted(Dataset):
    def __init__(self, items: Sequence[Item], bucket_size: int, ascending: bool) -> None:
        self._items = sorted(items, key=lambda item: len(item[1]), reverse=not ascending)
        self._bucket_size = bucket_size

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Item | list[Item]:
        if self._bucket_size <= 1:
            return self._items[index]
        first = max(0, min(len(self) - self._bucket_size, index))
        return self._items[first : first + self._bucket_size]


class LibriPhoneDataset(_Sorted):
    """Phones of LibriSpeech, for `ctc` with `corpus.name: libriphone`."""

    def __init__(
        self,
        split: Sequence[str],
        tokenizer: Any,
        bucket_size: int,
        path: str,
        lexicon: Sequence[str] | None = None,
        ascending: bool = False,
        **others: Any,
    ) -> None:
        files = tuple(Path(file) for file in lexicon or ())
        targets = phone_targets(Path(path), tuple(split), files, frozenset(tokenizer._vocab2idx))
        lines = [line for part in targets.splits.values() for line in part]
        super().__init__([(str(u.path), tokenizer.encode(" ".join(p))) for u, p in lines], bucket_size, ascending)


class LibriDataset(_Sorted):
    """Characters of LibriSpeech, for `ctc` with `corpus.name: librispeech`."""

    def __init__(
        self, split: Sequence[str], tokenizer: Any, bucket_size: int, path: str, ascending: bool = False, **others: Any
    ) -> None:
        vocabulary = frozenset(tokenizer._vocab2idx) | {"|"}
        targets = character_targets(Path(path), tuple(split), vocabulary)
        texts = [(str(u.path), " ".join(u.text.upper().split())) for part in targets.splits.values() for u, _ in part]
        super().__init__([(file, tokenizer.encode(text)) for file, text in texts], bucket_size, ascending)
