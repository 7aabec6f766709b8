"""The default protocol against scikit-learn, same frames, in one run: bits and seconds, and their ratio.

    python -m tests.bench.against_sklearn --libri_root DIR --alignments DIR -u fbank
    python -m tests.bench.against_sklearn --libri_root DIR --alignments DIR -u apc_local -k FILE --layer 1

Baseline: scikit-learn's LogisticRegression (lbfgs, to convergence) on standardised hidden states, C chosen among
1e-4 .. 1 on one held-out fit speaker, then fitted on all fit speakers; one layer, one seed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from s3prl_mi.core.config import load
from s3prl_mi.data.alignments.files import open_alignments
from s3prl_mi.data.splits import read_split
from s3prl_mi.estimators.arrays import estimate_supervised_mi
from s3prl_mi.estimators.bounds import NATS_TO_BITS, entropy_bits
from s3prl_mi.experiment.frame_pairs import held_out_groups
from s3prl_mi.experiment.labels import AlignedLabels, labelled_frames
from s3prl_mi.states.extraction import Request, extract
from s3prl_mi.states.store import Store
from s3prl_mi.upstreams.loading import load_upstream
from s3prl_mi.upstreams.views import PLAIN

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def frames(args, split, upstream, store):
    """Labelled frames of one split: z (n_frames, dim), labels, speakers."""
    section = {"datarc": {"libri_root": args.libri_root, "alignments": {"path": args.alignments}}}
    config = load(section, "mi_supervised")
    found = read_split(config.datarc, split)
    (entry,) = extract(store, [Request(upstream, found, PLAIN, (args.layer,), "float32")])
    utterances = {u.id: u for u in found.utterances}
    alignments = open_alignments(config.datarc.alignments)
    labels = labelled_frames([entry], utterances, found.n_samples, AlignedLabels(alignments, False), upstream.geometry)
    groups = held_out_groups([entry], utterances)[labels.rows]
    return entry.layer(args.layer)[labels.rows], labels.labels, groups


def sklearn_bits(z, y, groups, eval_z, eval_y):
    """Lower bound by scikit-learn, C chosen on the first fit speaker."""
    scaler = StandardScaler().fit(z)
    x, eval_x = scaler.transform(z), scaler.transform(eval_z)
    names = np.unique(y.astype(str))

    def fit(strength, rows):
        return LogisticRegression(C=strength, max_iter=2000, tol=1e-4).fit(x[rows], y[rows].astype(str))

    def loss(model, at, labels):
        q = np.full((len(at), len(names)), -30.0)
        q[:, np.searchsorted(names, model.classes_)] = model.predict_log_proba(at)
        return float(-q[np.arange(len(q)), np.searchsorted(names, labels.astype(str))].mean() * NATS_TO_BITS)

    held_out = groups == groups.max()
    losses = {c: loss(fit(c, ~held_out), x[held_out], y[held_out]) for c in STRENGTHS}
    best = min(losses, key=losses.get)
    final = fit(best, np.ones(len(x), dtype=bool))
    counts = np.unique(eval_y.astype(str), return_counts=True)[1]
    return entropy_bits(counts) - loss(final, eval_x, eval_y), best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libri_root", required=True)
    parser.add_argument("--alignments", required=True)
    parser.add_argument("-u", "--upstream", default="fbank")
    parser.add_argument("-k", "--ckpt")
    parser.add_argument("--layer", type=int, default=0)
    args = parser.parse_args()
    upstream = load_upstream(args.upstream, ckpt=args.ckpt)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), 10**10)
        z, y, groups = frames(args, "dev-other", upstream, store)
        eval_z, eval_y, _ = frames(args, "test-other", upstream, store)
    print(
        f"{args.upstream} layer {args.layer}: {len(z)} fit frames, {len(eval_z)} eval frames, {z.shape[1]} dimensions"
    )
    began = time.time()
    ours = estimate_supervised_mi(z, y, eval_z, eval_y, groups=groups)
    took = time.time() - began
    began = time.time()
    theirs, strength = sklearn_bits(z, y, groups, eval_z, eval_y)
    theirs_took = time.time() - began
    print(f"s3prl_mi     {ours.mi_lower_bound_bits:.4f} bits  {took:7.1f} s  L2 {ours.settings['l2']:.4f}")
    print(f"scikit-learn {theirs:.4f} bits  {theirs_took:7.1f} s  C {strength:g}")
    print(
        f"difference {ours.mi_lower_bound_bits - theirs:+.4f} bits, {theirs_took / took:.0f} x faster",
        flush=True,
    )


if __name__ == "__main__":
    main()
