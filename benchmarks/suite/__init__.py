"""The suite: many workloads, all optimizers tuned alike on each, and a report."""
