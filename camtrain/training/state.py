"""The state of training: all that a run needs to go on where it is."""

from __future__ import annotations

import contextlib
import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from camtrain.cam.targets import is_multilabel
from camtrain.device import Clock
from camtrain.interrupts import deferred
from camtrain.metrics.classification import is_correct, mean_average_precision
from camtrain.metrics.tags import ACCURACY, PRECISION
from camtrain.networks.classifier import Classifier
from camtrain.training.arm import Arm
from camtrain.training.optim import load_optimiser
from camtrain.training.step import Step, fault_of

History = dict[str, list[dict[str, float]]]
"""Of each arm, the figures of every epoch by tag."""


@dataclass
class EpochRecord:
    """What one arm's training did in one epoch."""

    means: dict[str, list[Tensor]] = field(default_factory=dict)  # by tag
    logits: list[Tensor] = field(default_factory=list)  # like targets of several classes per image only
    targets: list[Tensor] = field(default_factory=list)
    timed: list[float] = field(default_factory=list)  # seconds of each step that is comparable between arms
    steps: int = 0

    def add(self, step: Step, term_name: str) -> None:
        self.steps += 1
        for tag, value in (
            ("loss/total", step.loss),
            ("loss/classification", step.observed.classification),
            (f"loss/{term_name}", step.observed.cam_term),
            *((f"loss/{name}", each) for name, each in step.observed.further.items()),
            ("effort/cam_share", step.observed.cam_share),
            ("effort/cam_weight", step.observed.cam_weight),
        ):
            if value is not None:
                self.means.setdefault(tag, []).append(value)
        if is_multilabel(step.targets):
            self.logits.append(step.logits)
            self.targets.append(step.targets)
        else:
            self.means.setdefault(f"{ACCURACY}/train", []).append(is_correct(step.logits, step.targets).mean())

    def summary(self) -> dict[str, float]:
        """Figures of the epoch, by tag."""
        figures = {tag: float(torch.stack(values).double().mean()) for tag, values in self.means.items()}
        if self.logits:
            figures[f"{PRECISION}/train"] = mean_average_precision(torch.cat(self.logits), torch.cat(self.targets))
        if self.timed:
            figures["time/step"] = statistics.median(self.timed)
            figures["time/epoch"] = figures["time/step"] * self.steps
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Its fields, with every list of tensors as one tensor."""
        return {
            "means": {tag: torch.stack(values) for tag, values in self.means.items()},
            "logits": torch.stack(self.logits) if self.logits else None,
            "targets": torch.stack(self.targets) if self.targets else None,
            "timed": list(self.timed),
            "steps": self.steps,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: torch.device) -> EpochRecord:
        """The inverse of :meth:`state_dict`.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: it is none.
        """

        def parts(value: Tensor | None) -> list[Tensor]:
            return [] if value is None else list(value.to(device).unbind())

        means = {str(tag): parts(values) for tag, values in state["means"].items()}
        logits, targets, steps = parts(state["logits"]), parts(state["targets"]), int(state["steps"])
        if not all(0 < len(values) <= steps and values[0].shape == () for values in means.values()):
            raise ValueError("a step has one figure of a kind")
        if [each.shape for each in logits] != [each.shape for each in targets]:
            raise ValueError("logits of other images than targets")
        return cls(means, logits, targets, [float(seconds) for seconds in state["timed"]], steps)


class Unread(NamedTuple):
    """A step of an arm, of which nothing was read from the device yet."""

    arm: Arm
    step: int
    taken: Step
    indices: Tensor  # numbers of all its images
    clock: Clock | None  # that ran through it; None where it is not comparable between arms


@dataclass
class Taken:
    """What is left of an arm that another run has trained: its figures and maps of the epochs to come."""

    source: str
    """Folder of that run."""

    path: str
    """File that it was taken from."""

    history: list[dict[str, float]]
    kept_maps: list[Tensor]


@dataclass
class TrainingState:
    """Arms in training, how far they are, and what was measured on the way."""

    arms: Sequence[Arm]
    fork: int = 0
    """Epochs over which all arms are one network, which the first one trains; see :meth:`share_first`."""

    epoch: int = 0
    """Epochs trained and evaluated."""

    step: int = 0
    """Steps done of the epoch after these; once all are, it is to be evaluated."""

    seconds: float = 0.0
    """Spent so far, measuring and saving included."""

    history: History = field(default_factory=dict)
    kept_maps: dict[str, list[Tensor]] = field(default_factory=dict)
    """Of each arm, some maps of every epoch, (maps, height, width) float16 on the CPU: what the maps' settling is
    measured by."""

    records: dict[str, EpochRecord] = field(default_factory=dict)
    """Of each arm, what was observed in the steps done of the epoch that is not evaluated yet."""

    stopped: dict[str, str] = field(default_factory=dict)
    """Of each arm whose numbers are no longer finite, what, where, in words. It is trained no further."""

    taken: dict[str, Taken] = field(default_factory=dict)
    """Arms that another run has trained. They have its weights, those of its last epoch, from the first step on."""

    unread: list[Unread] = field(default_factory=list)
    """Steps of this epoch that are done, in order, as long as nobody has waited for their figures."""

    on_fault: Callable[[Unread, str], object] | None = None
    """Called with a step that was not finite, whose arm is stopped, and what of it was not, in words."""

    torn: bool = False
    """A change was broken off midway, so that this is the state of no moment."""

    def __post_init__(self) -> None:
        for arm in self.arms:
            self.history.setdefault(arm.name, [])
            self.kept_maps.setdefault(arm.name, [])
            self.records.setdefault(arm.name, EpochRecord())

    def steps_done(self, steps_per_epoch: int) -> int:
        """In all."""
        return self.epoch * steps_per_epoch + self.step

    @property
    def forked(self) -> bool:
        """Whether every arm trains a network of its own."""
        return self.epoch >= self.fork

    @property
    def active(self) -> list[Arm]:
        """Arms that train: those that are not stopped, nor trained already; before the fork, of these the first."""
        of_now = self.arms if self.forked else self.arms[:1]
        return [arm for arm in of_now if arm.name not in self.stopped and not self.ahead(arm.name)]

    def ahead(self, arm: str) -> int:
        """Epochs to come for which an arm is trained already."""
        return len(self.taken[arm].history) if arm in self.taken else 0

    @property
    def measurable(self) -> list[Arm]:
        """Arms whose weights are those of the epoch that is to be evaluated."""
        return [*self.active, *(arm for arm in self.arms if self.ahead(arm.name) == 1)]

    @property
    def anchor(self) -> Classifier | None:
        """The network that arms share as what their predictions are held to; None if none has one."""
        return next((arm.anchor for arm in self.arms if arm.anchor is not None), None)

    def stop(self, arm: str, fault: str) -> None:
        """Train an arm no further, for a reason in words; before the fork that is none of them."""
        names = [arm] if self.forked else [each.name for each in self.arms]
        self.stopped |= dict.fromkeys(names, fault)

    def read(self) -> None:
        """Wait for the steps that are done, keep their figures, and stop arms of which one was not finite."""
        unread, self.unread = self.unread, []
        newest = {each.arm.name: each.step for each in unread}
        for each in unread:
            name = each.arm.name
            if name in self.stopped:
                continue
            if bool(each.taken.finite):
                self.records[name].add(each.taken, each.arm.criterion.term_name)
                if each.clock is not None:
                    self.records[name].timed.append(each.clock.seconds())
                continue
            fault = fault_of(each.taken, each.arm.network if newest[name] == each.step else None)
            self.stop(name, f"the {name} arm's {fault} in epoch {self.epoch + 1}, step {each.step + 1}")
            if self.on_fault is not None:
                self.on_fault(each, fault)

    def take(self, arm: Arm, part: dict[str, Any], history: list[dict[str, float]], source: str, path: str) -> None:
        """Let an arm be what another run has made of it, which is trained no more before the end of these epochs.

        Args:
            arm: which.
            part: of it, as :meth:`part` gives them.
            history: its figures of every epoch.
            source: folder of the run.
            path: file that they were read from.

        Raises:
            LookupError, RuntimeError, TypeError, ValueError, AttributeError: the part is of another network, or none.
        """
        self._load_part(arm, part)
        self.taken[arm.name] = Taken(source, path, history, [*self.kept_maps[arm.name]])
        self.kept_maps[arm.name].clear()
        if len(history) != len(self.taken[arm.name].kept_maps):
            raise ValueError("epochs without maps")

    def give_back(self, arm: Arm, part: dict[str, Any]) -> None:
        """Let an arm be as it was before :meth:`take`, with a copy of its :meth:`part`."""
        self._load_part(arm, part)
        self.taken.pop(arm.name)

    def keep_taken(self) -> None:
        """The figures and maps of an epoch of arms that were trained already are those that were found then."""
        for name, taken in self.taken.items():
            if taken.history:
                self.history[name].append(taken.history.pop(0))
                self.kept_maps[name].append(taken.kept_maps.pop(0))

    def keep_all_taken(self, epochs: int) -> None:
        """The same of all epochs, where no other arm is left that would train in them."""
        if any(self.ahead(name) for name in self.taken):
            with self.changing():
                while any(self.ahead(name) for name in self.taken):
                    self.keep_taken()
                self.epoch, self.step = epochs, 0

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Within the block the state changes from one moment's to another's: a signal waits for its end."""
        with deferred():
            self.torn = True
            yield
            self.torn = False

    def share_first(self) -> None:
        """What the first arm became in an epoch before the fork, all are: its weights, buffers, optimiser and figures.

        Done after every one of these epochs, so that between epochs there is nothing that tells that arms are still one
        network but :attr:`forked`.
        """
        first, *others = self.arms
        weights = first.network.backbone.state_dict()
        for arm in others:
            arm.network.backbone.load_state_dict(weights)
            arm.optimiser.load_state_dict(copy.deepcopy(first.optimiser.state_dict()))  # which would keep the tensors
            self.history[arm.name].append(dict(self.history[first.name][-1]))
            self.kept_maps[arm.name].append(self.kept_maps[first.name][-1])
        if self.anchor is not None:
            self.anchor.backbone.load_state_dict(weights)

    def close_epoch(self) -> None:
        """The epoch was evaluated; the next one begins."""
        self.epoch, self.step = self.epoch + 1, 0
        for arm in self.arms:
            self.records[arm.name] = EpochRecord()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values in nested dictionaries and lists."""
        if self.unread:
            with self.changing():
                self.read()
        return {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "stopped": self.stopped,
            "history": self.history,
            "anchor": None if self.anchor is None else self.anchor.backbone.state_dict(),
            "taken": {name: vars(taken) for name, taken in self.taken.items()},
            "arms": {arm.name: self.part(arm) for arm in self.arms},
        }

    def part(self, arm: Arm) -> dict[str, Any]:
        """Of the state, what is an arm's own."""
        return {
            "network": arm.network.backbone.state_dict(),
            "optimiser": arm.optimiser.state_dict(),
            "criterion": arm.criterion.state_dict(),
            "kept_maps": self.kept_maps[arm.name],
            "record": self.records[arm.name].state_dict(),
        }

    @torch.no_grad()
    def _load_part(self, arm: Arm, part: dict[str, Any]) -> None:
        """The inverse of :meth:`part`."""
        arm.network.backbone.load_state_dict(part["network"])
        load_optimiser(arm.optimiser, part["optimiser"])
        arm.criterion.load_state_dict(part["criterion"])
        self.kept_maps[arm.name][:] = _maps(part["kept_maps"])
        device = next(arm.network.parameters()).device
        self.records[arm.name] = EpochRecord.from_state_dict(part["record"], device)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`, for the same arms; weights keep their device and memory layout.

        Raises:
            LookupError, RuntimeError, TypeError, ValueError, AttributeError: the state is of other arms, of another
                network, or none.
        """
        epoch, step = int(state["epoch"]), int(state["step"])
        names = [arm.name for arm in self.arms]
        if min(epoch, step) < 0 or [*state["arms"]] != names or not {*state["stopped"]} <= {*names}:
            raise ValueError("a state of no moment")
        if self.anchor is not None:
            self.anchor.backbone.load_state_dict(state["anchor"])
        for arm in self.arms:
            rows = _rows(state["history"][arm.name])
            self._load_part(arm, state["arms"][arm.name])
            self.history[arm.name][:] = rows
            if len(rows) != epoch and arm.name not in state["stopped"]:
                raise ValueError("epochs without figures")
            if len(self.kept_maps[arm.name]) != len(rows):
                raise ValueError("epochs without maps")
        taken = state.get("taken", {})
        self.taken = {
            name: Taken(str(of["source"]), str(of["path"]), _rows(of["history"]), _maps(of["kept_maps"]))
            for name, of in taken.items()
        }
        if not {*self.taken} <= {*names} or any(len(of.history) != len(of.kept_maps) for of in self.taken.values()):
            raise ValueError("epochs without maps")
        self.stopped = {str(name): str(fault) for name, fault in state["stopped"].items()}
        self.epoch, self.step, self.seconds = epoch, step, float(state["seconds"])


def _rows(found: Any) -> list[dict[str, float]]:
    """Figures by tag of every epoch."""
    return [{str(tag): float(value) for tag, value in row.items()} for row in found]


def _maps(found: Any) -> list[Tensor]:
    """Maps of every epoch, of equal shape."""
    if len({maps.shape for maps in found}) > 1:
        raise ValueError("maps of different networks")
    return list(found)
