"""s3prl's arguments and config -> a run's specification, for both entry points."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.config import load
from ..experiment.spec import RunSpec, UpstreamSpec

STORE_OPTIONS = {"max_gb": "max_store_gb", "mode": "store_mode"}
"""Config key below `store` -> option of our command line."""


def run_spec(args: argparse.Namespace, config: Mapping[str, Any]) -> RunSpec:
    """What one run is asked for, by s3prl's arguments and those of ours that the entry point has, and the whole config.

    Raises:
        MIError: a key or value in the config that means nothing.
    """
    ours = vars(args)  # s3prl's own runner knows none of our options, nor do the experiments of earlier versions
    return RunSpec(
        task=args.downstream,
        upstream=UpstreamSpec(
            name=args.upstream,
            ckpt=args.upstream_ckpt,
            step=ours.get("checkpoint_step"),
            series=ours.get("checkpoint_series"),
            model_config=args.upstream_model_config,
            refresh=bool(args.upstream_refresh),
            feature_selection=args.upstream_feature_selection,
            normalize=bool(args.upstream_feature_normalize),
            module=ours.get("upstream_module"),
            trusted=bool(ours.get("trust_checkpoint")),
        ),
        config=load(_with_options(config.get("downstream_expert") or {}, ours), args.downstream),
        folder=Path(args.expdir),
        seed=args.seed,
        layer=args.upstream_layer_selection,
        device=str(args.device),
        resume=bool(args.auto_resume or args.past_exp),
        evaluate_split=args.evaluate_split if args.mode == "evaluate" else None,
    )


def _with_options(section: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The config's section with what the command line asks of the store and of the precision."""
    section = dict(section)
    if ours.get("precision") is not None:
        section["precision"] = ours["precision"]
    store = {key: ours[name] for key, name in STORE_OPTIONS.items() if ours.get(name) is not None}
    if store:
        section["store"] = {**(section.get("store") or {}), **store}
    return section
