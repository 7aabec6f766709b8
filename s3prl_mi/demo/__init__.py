"""Nothing -> a small corpus with known phone times, and two models trained on it."""
