"""The command line as tests use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.corpus import Corpus


@dataclass
class Runner:
    """run_downstream.py on the small corpus, in this process."""

    corpus: Corpus
    folder: Path
    checkpoint: Callable[[str], tuple[str, Path]]
    device: str = "cpu"

    def command(
        self,
        task: str,
        model: str = "fbank",
        *words: str,
        name: str = "experiment",
        corpus: Corpus | None = None,
        **settings: Any,
    ) -> list[str]:
        """The words of a training command.

        `model` is an upstream, or a name of `models.MODELS`; `settings` are keys under downstream_expert with
        __ for a dot. Defaults: the logistic probe, 2 seeds, 6 clusters, masks of 6 in 10 frames, float32.
        """
        corpus = corpus or self.corpus
        upstream, file = (model, None) if model in ("fbank", "mel") else self.checkpoint(model)
        values: dict[str, Any] = {
            "datarc.libri_root": str(corpus.root),
            "datarc.fit_splits": ["fit-a", "fit-b"],
            "datarc.eval_splits": ["eval"],
            "datarc.alignments.path": str(corpus.alignments),
            "store.root": str(self.folder / "store"),
            "probes": ["logistic"],
            "seeds": 2,
            "clusters": 6,
            "views.mask": "6/10",
            "precision": "fp32",  # on every machine the same
        }
        values |= {key.replace("__", "."): value for key, value in settings.items()}
        override = ",,".join(f"config.downstream_expert.{k}={v!r}" for k, v in values.items())
        source = ["-k", str(file)] if file else []
        place = ["-p", str(self.folder / name), "--device", self.device]
        return ["-m", "train", "-d", task, "-u", upstream, *source, *place, "-o", override, *words]

    def __call__(self, task: str, model: str = "fbank", *words: str, **more: Any) -> int:
        """Train; the exit status."""
        from s3prl_mi.cli.run_downstream import main

        return main(self.command(task, model, *words, **more))

    def evaluate(self, split: str, *words: str, name: str = "experiment") -> int:
        from s3prl_mi.cli.run_downstream import main

        return main(["-m", "evaluate", "-p", str(self.folder / name), "-t", split, "--device", self.device, *words])

    def records(self, name: str = "experiment") -> list[Any]:
        from s3prl_mi.results.record import read_records

        return read_records(self.folder / name / "mi_results.jsonl")

    def numbers(self, name: str = "experiment") -> dict[tuple[Any, ...], tuple[float, ...]]:
        """Identity of each record -> what it measured; fails where one is repeated."""
        records = self.records(name)
        found = {
            r.identity(): (r.mi_lower_bound_bits, r.entropy_bits, r.cross_entropy_bits, r.accuracy) for r in records
        }
        assert len(found) == len(records), "a record is repeated"
        return found
