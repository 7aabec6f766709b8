"""`-d mi_views` for s3prl's own runner; what it does stands in s3prl_mi/experiment.py."""

from ..expert import RunnerAdapter


class DownstreamExpert(RunnerAdapter):
    """The task mi_views."""

    task = "mi_views"
