"""`s3prl-mi board STUDY`: which label-free measure to trust for layers, checkpoints and models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..core.errors import MIError

DESCRIPTION = """\
Judge every label-free measure as a picker: its rank correlation with I(Z;Y), PNMI, PER and WER over layers, checkpoints
and models; the layer and checkpoint that it picks, and what that gives up (regret); whether it notices a model that
never trained and one that collapsed; its seconds. Needs both tasks: -d mi_views,mi_supervised.
"""
EPILOG = """\
examples:
  s3prl-mi board result/study
  s3prl-mi board result/study --stock result/downstream/my_pr --csv board.csv --png board.png
  s3prl-mi board result/study --scores my_scores.csv         a table: upstream, per and/or wer in percent, source
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folders", nargs="+", type=Path, metavar="STUDY", help="folders that hold experiments")
    parser.add_argument(
        "--stock", nargs="+", type=Path, default=[], metavar="DIR", help="s3prl's own ctc and asr runs, for PER and WER"
    )
    parser.add_argument(
        "--scores", type=Path, metavar="CSV",
        help="your own table: upstream, per and/or wer in percent, source; own runs come first, SUPERB's scores last",
    )  # fmt: skip
    parser.add_argument("--csv", type=Path, metavar="FILE", help="every choice and measure: picks, regrets, intervals")
    parser.add_argument("--png", type=Path, metavar="FILE", help="the picture: regret by measure")


def run(args: argparse.Namespace) -> int:
    """Print the board; write the files that were asked for.

    Raises:
        MIError: nothing to judge, or a file that cannot be written.
    """
    from ..core.files import write_whole
    from ..report.board import notes_of, read_board, title_of, to_csv, to_screen
    from ..report.compare.scores import read_score_table
    from ..report.figures.board import board_picture
    from ..report.html.report_data import read_report_data

    data = read_report_data(args.folders, args.stock, read_score_table(args.scores) if args.scores else None)
    board = read_board(data)
    if board is None:
        raise MIError(
            f"{', '.join(map(str, args.folders))}: no model has several layers, and no series several checkpoints, "
            "that both tasks measured, with phones as labels. Measure both: -d mi_views,mi_supervised."
        )
    sys.stdout.write(to_screen(board, notes_of(board, data)))
    picture = board_picture(board, {v.measure: title_of(v.measure) for v in board.verdicts})
    try:
        if args.csv:
            write_whole(args.csv, to_csv(board))
        if args.png and picture is not None:
            write_whole(args.png, picture.png)
    except OSError as error:
        raise MIError(f"{error.filename}: cannot be written ({error.strerror}).") from None
    return 0
