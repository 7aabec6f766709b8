"""How much information a self-supervised speech model holds, and where: lower bounds of MI, in bits.

One package per stage; a stage knows only what lies above it in this table (import-linter holds the rule in CI).

=====  ==========  ===============================================================================================
stage  package     in -> out
=====  ==========  ===============================================================================================
0      core        nothing of ours -> errors, types, config, files, locks, threads, processes
1      data        folders, manifests -> utterances, waveforms, frame labels
2      upstreams   a name and a waveform -> hidden states under a view
3      estimators  frames -> bits
4      states      splits x upstream x views -> hidden states of every layer, on disk or in memory
       demo        nothing -> a small corpus with known phone times, and two models trained on it
       superb      LibriSpeech and transcripts -> what s3prl's own tasks need, and their error rates
5      results     estimates -> records, and what may be compared
6      report      records -> pictures, tables, pages
7      experiment  the specification of a run -> records in an experiment's folder
8      training    a model in training -> bits
       downstream  s3prl's runner -> ours
9      cli         a command line -> the specification of a run
=====  ==========  ===============================================================================================

Importing this package is cheap; the estimators load torch when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "estimate_supervised_mi", "estimate_view_mi"]

if TYPE_CHECKING:
    from .estimators.arrays import estimate_supervised_mi, estimate_view_mi


def __getattr__(name: str) -> Any:
    if name in ("estimate_supervised_mi", "estimate_view_mi"):
        from .estimators import arrays

        return getattr(arrays, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
