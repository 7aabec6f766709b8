"""Both tasks as s3prl's own runner calls them."""
