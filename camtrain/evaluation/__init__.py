"""Measuring trained arms on validation images."""
