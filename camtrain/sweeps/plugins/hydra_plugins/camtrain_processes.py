"""Our launcher under the name by which alone Hydra takes plugins; the command puts the folder above on the path."""

from camtrain.sweeps import launcher


class Processes(launcher.Processes):
    """`hydra/launcher=processes`, the default of camtrain: each job in a process of its own."""
