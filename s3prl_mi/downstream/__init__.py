"""Stage 8: s3prl's runner -> ours."""
