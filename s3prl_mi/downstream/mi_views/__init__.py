"""The task as s3prl finds it: `-d mi_views`."""
