"""Upstreams that s3prl lacks; `hubconf` names them."""
