"""Our launcher where Hydra looks for plugins, and takes them from only."""

from camtrain.sweeps import launcher


class Processes(launcher.Processes):
    """`hydra/launcher=processes`, the default of camtrain: each job in a process of its own."""
