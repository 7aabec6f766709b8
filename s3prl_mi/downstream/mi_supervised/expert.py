"""`-d mi_supervised` for s3prl's own runner; what it does is in s3prl_mi/experiment/run.py."""

from ..expert import RunnerAdapter


class DownstreamExpert(RunnerAdapter):
    """The task mi_supervised."""

    task = "mi_supervised"
