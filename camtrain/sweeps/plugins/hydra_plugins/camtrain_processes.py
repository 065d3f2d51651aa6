"""Our launchers and sweeper under the names by which alone Hydra takes plugins; the command puts the folder above on
the path."""

from camtrain.sweeps import launcher, on_ray, optimise, submitted


class Processes(launcher.Processes):
    """`hydra/launcher=processes`, the default of camtrain: each job in a process of its own."""


class Submitit(submitted.Submitit):
    """`hydra/launcher=submitit_slurm` and `submitit_local`: each job as one of a batch system."""


class Ray(on_ray.Ray):
    """`hydra/launcher=ray`: each job as a task of Ray."""


class Optuna(optimise.Optuna):
    """`hydra/sweeper=optuna`: jobs whose settings are chosen by the figures of those before."""
