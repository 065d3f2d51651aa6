#!/usr/bin/env python3
"""How often the rule of docs/verdict.md is right and wrong, by simulation, beside the former rule.

    scripts/simulate_verdict.py [--trials T] [--seeds 3 5] [--images 64 298 1000] [--seed 0]

The difference of image i in the network of seed k is drawn as D_ki = D + S_k + I_i + E_ki, normal, and that of a rate
as -1, 0 or 1: whether it changes, with a probability that varies over seeds (gamma distribution), where the changes of
one image in two seeds correlate; in which direction, by a share that varies over seeds. All seeds have the same images.
Spreads are about those of runs of the default experiment, and indicators are drawn independently of each other.
Every row of the table says a share of the trials:

- coverage: 95 % intervals that hold the true difference, of a mean, of a rate that changes in both directions, as
  accuracy does, and of rates that change in one direction, as the dead rate does;
- false: the statement is made although one of its conditions lies exactly at its limit, where the others hold for
  certain (of accuracy also where the number of images that change varies over seeds by half of its mean instead of a
  fifth); or although 15 % of all seeds lose ten points of accuracy, and so the mean more than its margin;
- false refutation: *nothing lost* is called refuted although no figure lies beyond its margin (each lies at it);
- power: the statements are made where energy rises by 0.03 over the sharpened baseline's and nothing is lost.

The former rule asked for both ends of two-sided 95 % intervals, for deletion and insertion of the trained map and two
others, and for the drop in confidence and the mass at the border; the margin of a rate was at least 3.84 / (n + 3.84)
for n images of one seed. Where it had no such condition, its claim was made regardless: 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from camtrain.analysis.intervals import LEVEL, Floats, Interval, hierarchical, rate_margin, unseen
from camtrain.analysis.verdict import BETTER, HELD_OUT_GAIN, NOTHING_LOST, Claim, Outcome, judge
from camtrain.config.options import CamVariant
from camtrain.config.schema import ReportConfig
from camtrain.report.tables import aligned

VALUES = 2**22
"""Differences that are drawn at once."""


class Mean(NamedTuple):
    """A difference D with the standard deviations of S, I and E."""

    true: float
    seeds: float
    images: float
    both: float
    rate: bool = False

    def draw(self, rng: np.random.Generator, seeds: int, images: int, trials: int) -> Floats:
        of_seeds = rng.normal(self.true, self.seeds, (seeds, 1, trials))
        of_images = rng.normal(0, self.images, (1, images, trials))
        return of_seeds + of_images + rng.normal(0, self.both, (seeds, images, trials))


class Rate(NamedTuple):
    """Shares of images that change upwards and downwards."""

    up: float
    down: float
    seeds: float = 0.5  # standard deviation of the share that changes, over seeds, as a share of it
    alike: float = 0.25  # correlation of an image's changes in two seeds
    turn: float = 0.0  # standard deviation over seeds of the share of the changes that go downwards
    bad: float = 0.0  # share of seeds that lose ten points
    rate: bool = True

    @property
    def true(self) -> float:
        return self.up - self.down - 0.1 * self.bad

    def draw(self, rng: np.random.Generator, seeds: int, images: int, trials: int) -> Floats:
        share, size = self.up + self.down, (seeds, images, trials)
        # A seed's network sees the image's own draw with probability sqrt(alike): two of them, with alike.
        common = rng.random(size) < self.alike**0.5
        place = np.where(common, rng.random((1, images, trials)), rng.random(size))
        shape = 1 / self.seeds**2
        changed = place < share * rng.gamma(shape, 1 / shape, (seeds, 1, trials))
        downwards = rng.normal(self.down / share, self.turn, (seeds, 1, trials))
        values = np.where(rng.random(size) < downwards, -1.0, 1.0) * changed
        fell = (rng.random((seeds, 1, trials)) < self.bad) & (rng.random(size) < 0.1 / (1 - share))
        return np.where(fell & ~changed, -1.0, values)


Size = tuple[int, int]
"""Seeds and images."""


class Drawn(NamedTuple):
    """Of each trial, the interval over all seeds, and those of each seed."""

    found: list[Interval]
    by_seed: list[list[Interval]]


def drawn(model: Mean | Rate, rng: np.random.Generator, size: Size, trials: int, each: bool = True) -> Drawn:
    """Intervals of trials; those of each seed only if they are asked for."""
    found: list[Interval] = []
    by_seed: list[list[Interval]] = [[] for _ in range(size[0])]
    step = max(1, VALUES // (size[0] * size[1]))
    for start in range(0, trials, step):
        values = list(model.draw(rng, *size, min(step, trials - start)))
        rates = [model.rate] * values[0].shape[1]
        found += hierarchical(values, True, rates)
        if each:
            for one, value in zip(by_seed, values, strict=True):
                one += hierarchical([value], True, rates)
    return Drawn(found, by_seed)


def former_margin(found: Interval) -> float:
    """Half of the 95 % interval by the former rule."""
    assert found.spread is not None
    spread = found.spread
    plain = np.asarray(spread._replace(skew=np.asarray(np.nan)).half(LEVEL))
    if np.isnan(spread.skew):
        return float(plain)
    bound = unseen(spread.degrees + 1, LEVEL)
    return float(np.maximum(rate_margin(plain, spread.skew, bound), bound))


ACCURACY, DEAD = "accuracy/val", "cam/dead_rate"
GAIN, FLIP, SHIFT = "faithfulness/gain", "stability/flip", "stability/shift"
ENERGY = "cam/energy_in_mask"
SPREAD = {
    "cam/entropy": (0.08, 0.4, 0.3),
    ENERGY: (0.01, 0.1, 0.1),
    GAIN: (0.01, 0.08, 0.12),
    HELD_OUT_GAIN: (0.01, 0.06, 0.09),
    FLIP: (0.01, 0.1, 0.1),
    SHIFT: (0.01, 0.1, 0.1),
}
"""Standard deviations of S, I and E."""

LIMITS: dict[str, tuple[str, float, Mean | Rate, bool]] = {
    "entropy": ("cam/entropy", 0.0, Mean(0.0, *SPREAD["cam/entropy"]), True),
    "energy over the sharpened baseline's": (ENERGY, 0.0, Mean(0.0, *SPREAD[ENERGY]), False),
    "accuracy, if changes vary by half": (ACCURACY, -0.01, Rate(0.045, 0.055, turn=0.05), True),
    "accuracy": (ACCURACY, -0.01, Rate(0.045, 0.055, seeds=0.2, turn=0.05), True),
    "faithfulness, trained map": (GAIN, -0.02, Mean(-0.02, *SPREAD[GAIN]), True),
    "faithfulness, held-out maps": (HELD_OUT_GAIN, -0.02, Mean(-0.02, *SPREAD[HELD_OUT_GAIN]), True),
    "mirrored": (FLIP, -0.02, Mean(-0.02, *SPREAD[FLIP]), False),
    "moved": (SHIFT, -0.02, Mean(-0.02, *SPREAD[SHIFT]), False),
    "dead rate": (DEAD, 0.01, Rate(0.01, 1e-9), True),
}
"""By condition: tag, limit, a difference that lies exactly there, and whether the former rule had such a condition."""

LIKELY: dict[str, Mean | Rate] = {
    "cam/entropy": Mean(-1.0, *SPREAD["cam/entropy"]),
    ENERGY: Mean(0.03, *SPREAD[ENERGY]),
    ACCURACY: Rate(0.055, 0.045, seeds=0.2, turn=0.05),
    GAIN: Mean(0.0, *SPREAD[GAIN]),
    HELD_OUT_GAIN: Mean(0.0, *SPREAD[HELD_OUT_GAIN]),
    FLIP: Mean(0.0, *SPREAD[FLIP]),
    SHIFT: Mean(0.0, *SPREAD[SHIFT]),
    DEAD: Rate(2e-4, 1e-9),
}

FORMER: list[tuple[Mean | Rate, float]] = [
    (Mean(-0.7, 0.03, 0.3, 0.2), 0.0),  # area
    *[(Mean(-0.005, 0.01, 0.06, 0.1), 0.02)] * 3,  # deletion, and with the sign turned
    *[(Mean(-0.005, 0.02, 0.06, 0.1), 0.02)] * 3,  # insertion
    (Mean(-0.07, 0.06, 0.1, 0.2), 0.02),  # drop in confidence, against the sharpened baseline
    (Mean(-0.05, 0.01, 0.05, 0.05), 0.01),  # mass at the border
]
"""What the former rule asked for besides: differences, lower is better, and their limits."""

KINDS: dict[str, Mean | Rate] = {
    "mean": Mean(0.0, *SPREAD[GAIN]),
    "rate, both directions": LIKELY[ACCURACY],
    "rate 0.01, one direction": Rate(0.01, 1e-9),
    "rate 0.002, one direction": Rate(0.002, 1e-9),
    "rate 0.01, images alike by 0.5": Rate(0.01, 1e-9, alike=0.5),
    "rate 0.05, seeds vary by their mean": Rate(0.05, 1e-9, seeds=1.0),
}
"""Differences whose intervals are tried; the last two vary more than the rule assumes."""

GUARDED = (ACCURACY, GAIN, FLIP, SHIFT, DEAD)
"""Of which a single seed can withhold the statements."""

CERTAIN = {tag: Interval(-9.0 if tag in ("cam/entropy", DEAD) else 9.0, 0.0, 0.0, 0.0) for tag in LIKELY}
MAPS = [CamVariant.layercam, CamVariant.eigencam]


def claim_of(found: Mapping[str, Interval], by_seed: Mapping[int, Mapping[str, Interval]]) -> Claim:
    """The rule's claim on a trial."""
    return judge(found, found, MAPS, ReportConfig(), ACCURACY, by_seed)


def claims(parts: Mapping[str, Drawn], trials: int) -> list[Claim]:
    """The rule's claims, where indicators that were not drawn are certain."""
    seeds = range(len(next(iter(parts.values())).by_seed))
    return [
        claim_of(
            CERTAIN | {tag: part.found[at] for tag, part in parts.items()},
            {seed: {tag: part.by_seed[seed][at] for tag, part in parts.items() if tag in GUARDED} for seed in seeds},
        )
        for at in range(trials)
    ]


def said(made: Sequence[Claim], statement: str, outcome: Outcome = Outcome.shown) -> float:
    return float(np.mean([claim.stated(statement) is outcome for claim in made]))


def keeps(found: Interval, limit: float, low: bool) -> bool:
    """Whether the former rule's condition was met."""
    return former_margin(found) < (limit - found.estimate) * (1 if low else -1)


Shares = dict[str, tuple[float, float | None]]
"""By line of the table, the share by the rule, and by the former one."""


def coverage(rng: np.random.Generator, size: Size, trials: int) -> Shares:
    """Of intervals of several kinds of differences."""
    shares: Shares = {}
    for name, model in KINDS.items():
        found = drawn(model, rng, size, trials, each=False).found
        off = np.array([abs(one.estimate - model.true) for one in found])
        margins, former = np.array([(one.margin, former_margin(one)) for one in found]).T
        shares[f"coverage: {name}"] = float(np.mean(off <= margins)), float(np.mean(off <= former))
    return shares


def false(rng: np.random.Generator, size: Size, trials: int) -> Shares:
    """Statements that are made although one condition lies at its limit."""
    shares: Shares = {}
    for name, (tag, limit, model, had) in LIMITS.items():
        part = drawn(model, rng, size, trials, each=tag in GUARDED)
        low = tag in ("cam/entropy", DEAD)
        statement = BETTER if limit == 0 else NOTHING_LOST
        former = float(np.mean([keeps(one, limit, low) for one in part.found])) if had else 1.0
        shares[f"false {statement}: {name}"] = said(claims({tag: part}, trials), statement), former
    part = drawn(Rate(0.055, 0.045, seeds=0.2, turn=0.05, bad=0.15), rng, size, trials)
    former = float(np.mean([keeps(one, -0.01, False) for one in part.found]))
    shares["false nothing lost: a cliff in 15 % of seeds"] = (
        said(claims({ACCURACY: part}, trials), NOTHING_LOST),
        former,
    )
    return shares


def refutation(rng: np.random.Generator, size: Size, trials: int) -> Shares:
    """That something is lost, where every figure lies at its limit."""
    lost = {tag: (model, limit) for tag, limit, model, _ in LIMITS.values() if limit}
    parts = {tag: drawn(model, rng, size, trials, each=tag in GUARDED) for tag, (model, _) in lost.items()}
    others = [drawn(Mean(limit, *model[1:4]), rng, size, trials, each=False).found for model, limit in FORMER[1:]]
    judged = [(parts[ACCURACY].found, -0.01, False), (parts[DEAD].found, 0.01, True)]
    judged += [(found, limit, True) for found, (_, limit) in zip(others, FORMER[1:], strict=True)]
    wrong = [any(keeps(found[at], limit, not low) for found, limit, low in judged) for at in range(trials)]
    return {"false refutation": (said(claims(parts, trials), NOTHING_LOST, Outcome.refuted), float(np.mean(wrong)))}


def power(rng: np.random.Generator, size: Size, trials: int) -> Shares:
    """Of each statement, and of both beside the former rule's claim."""
    parts = {tag: drawn(model, rng, size, trials, each=tag in GUARDED) for tag, model in LIKELY.items()}
    made = claims(parts, trials)
    former = [(drawn(model, rng, size, trials, each=False).found, limit, True) for model, limit in FORMER]
    former += [(parts["cam/entropy"].found, 0.0, True), (parts[ACCURACY].found, -0.01, False)]
    former += [(parts[DEAD].found, 0.01, True)]
    met = [all(keeps(found[at], limit, low) for found, limit, low in former) for at in range(trials)]
    both = float(np.mean([claim.outcome is Outcome.shown for claim in made]))
    shares: Shares = {f"power: {statement}": (said(made, statement), None) for statement in (BETTER, NOTHING_LOST)}
    return shares | {"power: more interpretable": (both, float(np.mean(met)))}


def table(sizes: Sequence[Size], trials: int, seed: int) -> str:
    """All measures of the rule, and of the former one, by numbers of seeds and images."""
    lines = [("seeds x images", "rule", *(f"{seeds} x {images}" for seeds, images in sizes))]
    for measure in (coverage, false, refutation, power):
        found = [measure(np.random.default_rng([seed, *size]), size, trials) for size in sizes]
        for name in found[0]:
            for at, rule in enumerate(("new", "former")):
                shares = [one[name][at] for one in found]
                cells = [f"{share:.3f}" for share in shares if share is not None]
                if cells:
                    lines.append(("" if at else name, rule, *cells))
    return aligned(lines, right=range(2, len(lines[0])), ruled=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="trials of each share")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5], help="numbers of seeds")
    parser.add_argument("--images", type=int, nargs="+", default=[64, 298, 1000], help="numbers of images")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    given = parser.parse_args()
    sizes = [(seeds, images) for seeds in given.seeds for images in given.images]
    error = (0.05 * 0.95 / given.trials) ** 0.5
    print(table(sizes, given.trials, given.seed))
    print(f"\n{given.trials} trials; standard error of a share of 0.05 or 0.95: {error:.3f}")


if __name__ == "__main__":
    main()
