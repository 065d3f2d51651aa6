"""Data sets: pictures, targets and regions as batches."""
