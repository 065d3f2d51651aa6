"""task=plan: what a run or a sweep would cost; nothing is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Command

from camtrain.tasks.plan import Cost, in_bytes, in_words

FAST = ("dataset=fake", "trainer.batch_size=8", "trainer.threads=1", "evaluate.maps=[]")


def cost(**changed: float) -> Cost:
    known = {"setting_up": 1.0, "step": 0.3, "reference": 0.1, "steps": 100, "alone": 0, "evaluation": 2.0}
    return Cost(**{**known, "evaluations": 5, "final": 7.0, "disk": 10, "memory": 20, **changed})  # type: ignore[arg-type]


def test_a_run_is_the_sum_of_its_parts() -> None:
    assert cost().seconds == pytest.approx(1 + 30 + 10 + 7)
    assert cost(alone=40).seconds == pytest.approx(1 + 60 * 0.3 + 40 * 0.1 + 10 + 7)
    assert cost().of_reference == pytest.approx(10)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (119, "119 s"),
        (120, "2.0 min"),
        (7199, "120 min"),
        (7200, "2.0 h"),
        (2e5, "2.3 days"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert in_words(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0.0 kB"), (999, "1.0 kB"), (12_345, "12 kB"), (2.5e9, "2.5 GB"), (4e15, "4000 TB")]
)
def test_sizes(count: float, said: str) -> None:
    assert in_bytes(count) == said


def test_a_run_is_planned_and_nothing_is_written(run_command: Command, tmp_path: Path) -> None:
    done = run_command("task=plan", *FAST, "trainer.epochs=7", "+arms.area.cam.term=area")
    assert done.returncode == 0, done.stderr
    assert "plan        fake, small_resnet, 1 CPU thread\narms        baseline, regularised, area\n" in done.stdout
    assert re.search(r"^training +\S+ \w+: 28 steps, 4 an epoch$", done.stdout, re.MULTILINE)
    assert re.search(r"^evaluation +\S+ s: 7 x 16 images$", done.stdout, re.MULTILINE)
    assert re.search(r"^a run +\S+ \w+, \S+ MB on the disk, \S+ [MG]B of memory$", done.stdout, re.MULTILINE)
    assert not list(tmp_path.iterdir())


def test_a_sweep_is_planned_with_its_baselines_trained_once(run_command: Command, tmp_path: Path) -> None:
    sweep = ("-m", "task=plan", *FAST, "trainer.epochs=2", "seed=0,1", "cam.share=0.2,0.5")
    done = run_command(*sweep)
    assert done.returncode == 0, done.stderr
    jobs = re.findall(r"^#\d: (.*?) +\S+ s( \(baseline shared\))? +\S+ MB$", done.stdout, re.MULTILINE)
    assert [settings for settings, _ in jobs] == [
        f"seed={seed} cam.share={share}" for seed in (0, 1) for share in (0.2, 0.5)
    ]
    assert [bool(shared) for _, shared in jobs] == [False, True, False, True]
    assert re.search(r"^4 runs: .* on the disk; each takes up to \S+ [MG]B of memory$", done.stdout, re.MULTILINE)
    assert not list(tmp_path.iterdir())
    assert "baseline shared" not in run_command(*sweep, "trainer.baselines=null").stdout


@pytest.mark.parametrize("sweep", [False, True])
def test_what_would_not_run_is_not_planned(sweep: bool, run_command: Command, tmp_path: Path) -> None:
    seeds = ("-m", "seed=0,1") if sweep else ()
    done = run_command(*seeds, "task=plan", *FAST, "model.layer=nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith(f"camtrain: error: {'job #0: ' if sweep else ''}model.layer=nowhere")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
