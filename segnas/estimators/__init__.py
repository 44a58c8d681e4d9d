"""How good an architecture is and what it costs: short training, cached features, tabular benchmarks."""
