"""Sweeps: each job in a process of its own, what became of each in `sweep.json`. Without torch."""
