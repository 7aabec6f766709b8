"""Stage 5: estimates -> records, and what may be compared."""
