"""The options of `run_downstream.py`: those of s3prl and some of ours, with help of our own.

s3prl's parser cannot be had without importing every upstream, which takes ten seconds; a test compares the two
option by option.
"""

from __future__ import annotations

import argparse
import shutil
from typing import NoReturn

from ..core.config import TASKS
from ..core.errors import MIError, nearest
from ..core.files import PACKAGE
from ..superb.tasks import TASKS as SUPERB_TASKS
from ..upstreams import compat

PROG = "run_downstream.py"

_DESCRIPTION = f"""\
Two tasks of s3prl_mi measure a frozen upstream in bits; everything else is s3prl's own run_downstream.py.

  -d mi_views       information that two views of the same speech share; needs audio only
  -d mi_supervised  information that hidden states hold about phones or words (needs alignments), or about
                    speaker, pitch or energy (labels; needs audio only)

Examples:

  label-free, on a LibriSpeech folder with dev-other and test-other in it:
    {PROG} -m train -d mi_views -u hubert -n hubert_views \\
      -o "config.downstream_expert.datarc.libri_root='/data/LibriSpeech'"

  with phone alignments (TextGrid, CPC, CTM, PHN or condensed), on a baseline, without a GPU:
    {PROG} -m train -d mi_supervised -u fbank -n fbank_phones --device cpu \\
      -o "config.downstream_expert.datarc.libri_root='/data/LibriSpeech',,\\
    config.downstream_expert.datarc.alignments.path='/data/alignments'"

  what each layer keeps of content, speaker and prosody: one curve for each
    {PROG} -m train -d mi_supervised -u hubert -n kept -c my.yaml \\
      -o "config.downstream_expert.labels=['phones','speaker','energy']"

  your own checkpoint, one layer, your own config:
    {PROG} -m train -d mi_views -u hubert_local -k my_hubert.pt -l 9 -n my_views -c my.yaml

  several upstreams or checkpoints, both tasks, then a comparison and a report:
    {PROG} -m train -d mi_views,mi_supervised -u fbank,hubert,wavlm -n three -c my.yaml
    {PROG} -m train -d mi_views -u hubert_local -k 'run/ckpt_*.pt' -n curve -c my.yaml

  bits next to error rates: SUPERB's phone recognition by s3prl's own runner; its config is the section ctc
    {PROG} -m train -d mi_views,mi_supervised,ctc -u fbank,hubert -n with_per -c my.yaml \\
      -o "config.ctc.runner.total_steps=20000"

  the same, two upstreams at once on this machine; and on a SLURM cluster, one job each:
    {PROG} -m train -d mi_views,mi_supervised -u fbank,hubert,wavlm -n three -c my.yaml --jobs 2
    {PROG} -m train -d mi_views -u hubert_local -k 'run/ckpt_*.pt' -n curve -c my.yaml \\
      --slurm partition=gpu,gpus_per_node=1,cpus_per_task=4,timeout_min=120

  a whole study of the paper:
    {PROG} -m train -c downstream_configs/paper_table2_mlm.yaml -n table2 \\
      -o "config.downstream_expert.datarc.libri_root='/data/LibriSpeech',,\\
    config.downstream_expert.datarc.alignments.path='/data/alignments'"

  continue a run that was interrupted: the same command with -a
    {PROG} -m train -d mi_views -u hubert_local -k my_hubert.pt -l 9 -n my_views -c my.yaml -a

  score a finished experiment on another split, without fitting again:
    {PROG} -m evaluate -d mi_views -n my_views -t test-clean

The config of both tasks is optional (-c); its keys, for -o, are listed in
  {{configs}}
Without data: `s3prl-mi demo`. If something does not start: `s3prl-mi doctor`.
"""


class _Parser(argparse.ArgumentParser):
    """Reports a mistake as a MIError, instead of printing thirty options."""

    def error(self, message: str) -> NoReturn:
        prefix, _, unknown = message.partition("unrecognized arguments: ")
        if not prefix and unknown:
            options = [o for action in self._actions for o in action.option_strings]
            message += "." + nearest(unknown.split()[0].partition("=")[0], options, count=1)
        raise MIError(f"{message} (`{PROG} -h` shows all options)")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=min(110, shutil.get_terminal_size().columns))


def build_parser() -> argparse.ArgumentParser:
    """s3prl's options, defaults, types and choices, and ours, which `downstream.arguments` and studies read."""
    parser = _Parser(
        prog=PROG,
        usage=f"{PROG} -m {{train,evaluate,inference}} -d TASK -u UPSTREAM -n NAME [options]",
        description=_DESCRIPTION.format(configs=PACKAGE / "core" / "config.py"),
        formatter_class=_HelpFormatter,
    )
    group = parser.add_argument_group("what to run").add_argument
    group("-m", "--mode", choices=["train", "evaluate", "inference"], required=True)
    group("-d", "--downstream", help="mi_views, mi_supervised, any task of s3prl's (ctc, asr); several with commas")
    group("-v", "--downstream_variant", help="variant, for stock tasks that have some")
    group("-c", "--config", help="YAML file of the experiment; optional for mi_views and mi_supervised")
    group("-o", "--override", help="changes to the config, e.g. \"config.runner.seed=1,,args.device='cpu'\"")
    group("-t", "--evaluate_split", default="test", help="split that -m evaluate scores")
    group("--no_test", action="store_true", help="-d ctc, -d asr: do not score the best checkpoint on test at the end")

    group = parser.add_argument_group("upstream").add_argument
    group("-u", "--upstream", help="its name; `s3prl-mi upstreams` lists all. Several: -u a,b or -u a=FILE,b=FILE")
    group(
        "-k",
        "--upstream_ckpt",
        metavar="{PATH,URL,GOOGLE_DRIVE_ID}",
        help="checkpoint of *_local, *_url, ...; a pattern ('run/*.pt') or folder is a series",
    )
    group("--upstream_module", metavar="FILE.py", help="a module with upstreams of your own, for -u (see README)")
    group("--trust_checkpoint", action="store_true", help="the checkpoint may run code while it is read; else refused")
    group("-g", "--upstream_model_config", help="config file that some upstreams need alongside their checkpoint")
    group("-r", "--upstream_refresh", action="store_true", help="download the checkpoint again")
    group("-f", "--upstream_trainable", action="store_true", help="fine-tune (stock tasks only)")
    group("-s", "--upstream_feature_selection", default="hidden_states", help="key of the upstream's output")
    group("-l", "--upstream_layer_selection", type=int, help="one layer of that key, counted from 0")
    group("--upstream_feature_normalize", action="store_true", help="layer-normalise before the weighted sum")
    group("--hub", default="torch", choices=["torch", "huggingface"], help="where -u is looked up")
    group("--upstream_model_name", default="model.pt", help="file name in a repository of --hub huggingface")
    group("--upstream_revision", help="commit of a repository of --hub huggingface")

    group = parser.add_argument_group("experiment folder").add_argument
    group("-n", "--expname", help="save to result/downstream/EXPNAME")
    group("-p", "--expdir", help="save to this folder")
    group("-a", "--auto_resume", action="store_true", help="continue what is in the folder already")
    group("-e", "--past_exp", metavar="{CKPT_PATH,CKPT_DIR}", help="take arguments and config from there")
    group("-i", "--init_ckpt", metavar="CKPT_PATH", help="take weights from there (stock tasks)")
    group("--push_to_hf_hub", default=False, help="upload the folder at the end (stock tasks)")
    group("--hf_hub_org", help="to which organisation")

    group = parser.add_argument_group("machine").add_argument
    group("--device", default="cuda", help="cuda, cuda:1, cpu; the CPU is taken where there is no GPU")
    group("--seed", default=1337, type=int)
    group("--cache_dir", help="folder of torch.hub's downloads")
    group("--verbose", action="store_true", help="print more about the model")
    group("--disable_cudnn", action="store_true")
    group(
        "--jobs",
        type=int,
        metavar="N",
        help="several upstreams or checkpoints: N at once, each in a process of its own",
    )
    group(
        "--slurm",
        nargs="?",
        const="",
        metavar="KEY=VALUE,...",
        help="submit them to SLURM; keys as in sbatch (partition, account, qos, gres ...) or submitit "
        "(timeout_min, mem_gb, cpus_per_task, gpus_per_node). With --jobs: at most N at once",
    )
    group(
        "--max_store_gb",
        type=float,
        metavar="N",
        help="hidden states may take N GB on disk (50); above that they are kept in memory, or worked a few layers at "
        "a time",
    )
    group(
        "--reuse_states",
        action=argparse.BooleanOptionalAction,
        help="stock tasks: hidden states of a frozen upstream come from the store, so that each utterance passes it "
        "once for all epochs, seeds and tasks; the default in a study on a CPU",
    )
    group(
        "--store_mode",
        choices=["auto", "disk", "memory", "recompute"],
        help="where hidden states lie: disk (other runs find them again), memory (nothing is written), recompute (as "
        "many layers at a time as fit, the upstream runs once for each group); auto says what it takes and why",
    )
    group(
        "--precision",
        choices=["auto", "fp32", "mixed", "bf16"],
        help="of the upstream's forward pass: float32; mask views in bfloat16; everything in bfloat16. auto: mixed on "
        "a CPU, bf16 on a GPU, where the machine is fast at it and hidden states hardly change; fp32 turns that off",
    )
    group("--backend", default="nccl", help="of torch.distributed, for s3prl's own tasks")
    group("--local_rank", type=int, help="set by torch.distributed's launcher; --local-rank is understood")
    return parser


def underscored(word: str) -> str:
    """Since torch 2.0 the launcher passes --local-rank, which s3prl does not know."""
    return word.replace("--local-rank", "--local_rank", 1) if word.startswith("--local-rank") else word


def stock_tasks() -> list[str]:
    """The downstream tasks of the installed s3prl, without importing it."""
    found = compat.s3prl_folder() / "downstream"
    return sorted(path.parent.name for path in found.glob("*/expert.py"))


def check_task(task: str | None) -> None:
    """Refuse a task that neither s3prl nor this package has.

    Raises:
        MIError: no task, or an unknown one.
    """
    known = [*TASKS, *stock_tasks()]
    if task is None:
        raise MIError(f"-d is missing: which task? Tasks: {', '.join(known)}.")
    if task not in known:
        meant = next((t for t in SUPERB_TASKS if t.superb.lower() == task.lower()), None)
        hint = f" SUPERB's {meant.superb} is -d {meant.name}." if meant else nearest(task, known)
        raise MIError(f"unknown task -d {task}.{hint} Tasks: {', '.join(known)}.")
