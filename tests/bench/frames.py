"""Real frames for the cases that estimate: two views of a layer, as `mi_views` gets them."""

from __future__ import annotations

import argparse
import functools
import tempfile
from pathlib import Path

import numpy as np

from s3prl_mi.core.config import DataConfig
from s3prl_mi.data.splits import read_split
from s3prl_mi.experiment.frame_pairs import held_out_groups, paired_frames
from s3prl_mi.states.extraction import Request, extract
from s3prl_mi.states.split_states import SplitStates
from s3prl_mi.states.store import Store
from s3prl_mi.upstreams.loading import Upstream, load_upstream
from s3prl_mi.upstreams.views import PLAIN, View
from tests.helpers.paths import MINI, SHARED

Data = dict[str, np.ndarray]
MASK = View("mask", "latent", 40, 10)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose frames."""
    corpus = MINI
    parser.add_argument("--libri_root", type=Path, default=corpus, help="folder with dev-other and test-other")
    parser.add_argument("-u", "--upstream", default="hubert_local")
    parser.add_argument("-k", "--ckpt", type=Path, default=SHARED / "checkpoints" / "hubert2-001800.pt")
    parser.add_argument(
        "--layers", type=int, nargs="+", default=[0, 2, 4, 6], help="of several, hidden states side by side"
    )


def views(args: argparse.Namespace) -> Data:
    """Fit on dev-other, eval on test-other.

    Returns:
        `za`, `zb`: masked frames of both views, fit; `eza`, `ezb`: eval; `zb_all`: all fit frames of view b; `g`: the
        speaker of each masked fit frame.
    """
    return _views(args.libri_root, args.upstream, str(args.ckpt), tuple(args.layers))


def first(d: Data, count: int = 2000) -> Data:
    """The first frames of view b and the pairs among them, to warm up with."""
    pairs = int((d["rows_b"] < count).sum())
    return {name: v[: count if name.endswith("_all") else pairs] for name, v in d.items()}


@functools.cache
def _views(libri_root: Path, name: str, ckpt: str, layers: tuple[int, ...]) -> Data:
    upstream = load_upstream(name, ckpt)
    config = DataConfig(libri_root=str(libri_root))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), 10**11)
        fit, evaluated = (_side(upstream, config, split, layers, store) for split in ("dev-other", "test-other"))
    return {**fit, **{f"e{k}": v for k, v in evaluated.items() if k in ("za", "zb")}}


def _side(upstream: Upstream, config: DataConfig, name: str, layers: tuple[int, ...], store: Store) -> Data:
    split = read_split(config, name)
    requests = [Request(upstream, split, view, layers, "auto") for view in (PLAIN, MASK)]
    plain, masked = extract(store, requests)
    side = SplitStates([split], {PLAIN: [[plain]], MASK: [[masked]]})
    pairs = paired_frames([plain], MASK, "masked", upstream.geometry)

    def read(view: View) -> np.ndarray:
        frames = [side.frames(layer, None, view) for layer in layers]
        return np.concatenate([f.read(0, len(f)) for f in frames], 1)

    a, b = read(MASK), read(PLAIN)
    groups = held_out_groups([plain], side.utterances)
    rows = pairs.rows_b
    return {"za": a[pairs.rows_a], "zb": b[rows], "zb_all": b, "g": groups[rows], "g_all": groups, "rows_b": rows}
