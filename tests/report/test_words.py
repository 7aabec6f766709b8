"""Findings in words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from s3prl_mi.report.html import words


def test_models_that_have_collapsed_are_named(monkeypatch):
    def of(model, measure, layer, value):
        return SimpleNamespace(upstream_sha256=model, measure=measure, layer=layer, value=value)

    measured = [
        of("a", "participation_ratio", 5, 1.1),
        of("a", "participation_ratio", 3, 1.85),
        of("a", "rankme", 5, 1.0),
        of("b", "participation_ratio", 5, 2.4),
        of("b", "participation_ratio", 6, None),
    ]
    monkeypatch.setattr(words, "read_measures", lambda path: measured)
    data = SimpleNamespace(results=[SimpleNamespace(folder=Path("x"))], names={"a": "hubert step 200", "b": "another"})
    (found,) = words.collapsed(data)
    assert "hubert step 200 have collapsed (layer 3, 5: participation ratio 1.1, below 2)" in found
