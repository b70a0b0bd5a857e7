"""The suite: many workloads, every optimizer tuned alike on each, and a report."""
