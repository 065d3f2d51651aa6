"""The command line: what is refused and how, exit codes, signals, help, completion and folders."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO, NoReturn

import pytest
import torch
from conftest import BASIC, PRESETS, QUICK, ROOT, TINY, Command, in_process
from PIL import Image

from camtrain.cli import beside, check_flag, place_of, trouble
from camtrain.errors import UserError
from camtrain.files import write_atomically


def test_a_sweep_is_checked_before_its_first_job(tmp_path: Path, run_command: Command) -> None:
    done = run_command("-m", *TINY, "cam.weight=0.1,-1")
    assert (done.returncode, done.stderr) == (
        2,
        "camtrain: error: cam.weight=-1 is out of range: it must be at least 0\n",
    )
    assert not list(tmp_path.iterdir())


WRONG = {
    "model=resnet19": r"model=resnet19: no such choice \(did you mean resnet18\?\); choose one of .*resnet34",
    "model=ResNet50": r"model=ResNet50: no such choice \(did you mean resnet50\?\); choose one of",
    "model=tests": r"model=tests: no such choice; .*any other classifier of torchvision: model.name=tests$",
    "dataset=folder": r"dataset.root is not set",
    "dataset.cache=": r"dataset.cache is empty: give a folder, auto, or null for none",
    "dataset=folder dataset.root=nowhere": r"dataset.root=nowhere: there is no such folder",
    "cam.wieght=1": r"cam.wieght: no such key \(did you mean cam.weight\?\); cam has variant, score, term, weight",
    "cam.weight=abc": r"cam.weight: abc does not fit; it must be a number or auto",
    "cam.weight=-1": r"cam.weight=-1 is out of range: it must be at least 0",
    "cam.variant=camgrad": r"cam.variant: camgrad does not fit; it must be one of cam, .*, layercam$",
    "cam.score=prob": r"cam.score: prob does not fit; it must be one of logit, centred, log_prob",
    "trainer.batch_size=0": r"trainer.batch_size=0 is out of range: it must be at least 2",
    "trainer.epochs=1.5": r"trainer.epochs: 1.5 does not fit; it must be a whole number",
    "optim.lr=0": r"optim.lr=0 is out of range: it must be above 0",
    "dataset.crop_scale=[0.9,0.2]": r"dataset.crop_scale=\[0.9, 0.2\] must be two shares",
    "dataset.flip=maybe": r"dataset.flip: maybe does not fit; it must be true or false",
    "dataset.root=x": r"dataset.root: no such key of this data set, but of dataset=folder, voc2007, .*",
    "sed=1": r"sed: no such key \(did you mean seed\?\); there are dataset, model",
    "epochs=3": r"epochs: no such key \(did you mean trainer.epochs\?\)",
    "root=x": r"root: no such key \(did you mean dataset.root\?\)",
    "--epochs 3": r"--epochs: no such flag; settings are written KEY=VALUE",
    "--optim.lr=1": r"--optim.lr=1: no such flag; settings are written KEY=VALUE, for instance optim.lr=1$",
    "-seed=1": r"-seed=1: no such flag; settings are written KEY=VALUE, for instance seed=1$",
    "dataset=folder dataset.root=~/x": r"dataset.root=~/x: there is no such folder",
    "dataset=folder dataset.root=~no_such_account/x": r"dataset.root=~no_such_account/x: there is no such folder",
    "cam.weight=[1": r"cannot read 'cam.weight=\[1'; cam.weight must be a number or auto$",
    "hydra.job.name=a[1": r"cannot read .* quotes within quotes: 'hydra.job.name=\"a\[1\"'$",
    "train": r"train: settings are written KEY=VALUE, without blanks around the =; did you mean task=train\?$",
    "optim.lr = 1": r"optim.lr: settings are written KEY=VALUE, .*; did you mean optim.lr=VALUE\?$",
    "task=eval": r"task: eval does not fit; it must be one of train, layers, data, evaluate, compare, explain, report",
    "model.layer=layer9": r"model.layer=layer9: small_resnet has no such layer; it has .*layer3 \(4 x 4\)",
    "model.name=resnet19": r"model.name=resnet19: no such network",
    "model.weights=nowhere.pt": r"model.weights=nowhere.pt: no such file",
    "cam=cam model=squeezenet1_0": r"cam.variant=cam needs global average pooling",
    "cam.variant=eigencam": r"cam.variant=eigencam can be measured, by evaluate.maps=\[eigencam\], but not trained",
    "+cam.wieght=5": r"cam.wieght: no such key",
    "cam=null": r".*cam=null: a group is set to the name of one of its choices",
    "cam.weight=1,2": r"cam.weight=1,2: several values .* a sweep; write camtrain -m cam.weight=1,2, .*cam.weight=1.2$",
    "seed=0,1": r"seed=0,1: several values for one key are a sweep; write camtrain -m seed=0,1$",
    "dataset.image_size=32,48": r"dataset.image_size=32,48: .* in brackets: 'dataset.image_size=\[32,48\]'$",
    "seed=0,1,2": r"seed=0,1,2: several values for one key are a sweep; write camtrain -m seed=0,1,2$",
    "dataset.crop_scale=0.4,1": r"dataset.crop_scale=0.4,1: a list stands in brackets: 'dataset.crop_scale=\[0.4,1\]'$",
    "evaluate.maps=cam": r"evaluate.maps: .* does not fit; it must be a list, .* brackets: evaluate.maps=\[\.\.\.\]$",
    "evaluate.maps=[cam": r"cannot read .*; a list stands in brackets: 'evaluate.maps=\[cam\]'$",
    "cam.weight=null": r"cam.weight: this value does not fit; it must be a number or auto",
    "cam.weight=inf": r"cam.weight=inf is out of range: it must be at least 0 and finite",
    "model=resnet18 model.layer=layer2 dataset.image_size=64": r"model.layer=layer2: a batch norm behind it",
    "model=vit_b_16 dataset.image_size=40": r"dataset.image_size=40: this network cannot take it",
    "model=vit_b_16 dataset.image_size=[160,224]": r"dataset.image_size=\[160,224\]: vit_b_16 takes square images only",
    "model.batch_norm=frozen": r"model.batch_norm=frozen keeps statistics that were loaded: it needs model.weights",
    "dataset.crop_scale=[magic,1]": r"dataset.crop_scale\[0\]: magic does not fit; it must be a number",
    "evaluate.maps=[magic]": r"evaluate.maps\[0\]: magic does not fit; it must be one of cam, gradcam",
    "dataset.name=shapes": r"dataset.name=shapes: choose the data set with dataset=shapes",
    "trainer.device=cuda": r"trainer.device=cuda: torch finds no CUDA device",
}


@pytest.mark.parametrize("overrides", WRONG)
def test_wrong_overrides_are_one_line_and_write_nothing(overrides: str, tmp_path: Path, run_command: Command) -> None:
    if "cuda" in overrides and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    arguments = overrides.split() if "dataset=folder" in overrides else ["dataset=fake", *overrides.split()]
    done = run_command(*arguments)
    said = done.stderr
    assert done.returncode == 2, said
    assert not done.stdout
    assert said.count("\n") == 1, said
    assert re.match(f"camtrain: error: {WRONG[overrides]}", said), said
    assert not list(tmp_path.iterdir())


def test_the_flags_of_hydra_are_known_also_where_a_setting_is_called_so() -> None:
    check_flag("--run")
    with pytest.raises(UserError, match=r"--run=x: no such flag; settings are written KEY=VALUE, for instance run=x"):
        check_flag("--run=x")


def test_settings_that_follow_from_others_stand_beside_them() -> None:
    assert beside(["-m", "task=evaluate", "--cfg", "job"], ["a=b"]) == ["-m", "task=evaluate", "a=b", "--cfg", "job"]
    assert beside(["seed=1"], []) == ["seed=1"]


def test_an_output_folder_that_cannot_be_written(tmp_path: Path, run_command: Command) -> None:
    (tmp_path / "outputs").write_text("a file where the folder should be")
    done = run_command(*TINY)
    assert done.returncode == 2
    assert re.fullmatch(r"camtrain: error: .*outputs.*; choose another folder with hydra.run.dir=FOLDER\n", done.stderr)
    assert [entry.name for entry in tmp_path.iterdir()] == ["outputs"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_a_read_only_folder(tmp_path: Path, run_command: Command) -> None:
    tmp_path.chmod(0o555)
    done = run_command(*TINY)
    assert done.returncode == 2
    assert "Permission denied" in done.stderr


def test_two_runs_cannot_share_a_folder(tmp_path: Path, command: Command) -> None:
    """In processes of their own: one that trains, and one that a mistake ends."""
    done = command(*TINY, "trainer.max_steps=1", "hydra.run.dir=here")
    assert (done.returncode, done.stderr) == (0, "")
    files = [path for path in (tmp_path / "here").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    again = command(*TINY, "cam.weight=0.777", "hydra.run.dir=here")
    assert again.returncode == 2
    assert re.fullmatch("camtrain: error: .* already holds a run: .*\n", again.stderr)
    assert {path: path.read_bytes() for path in files} == before


def test_a_folder_of_the_users_own_is_not_removed(tmp_path: Path, run_command: Command) -> None:
    (tmp_path / "mine").mkdir()
    done = run_command("dataset=fake", "model.layer=layer9", "hydra.run.dir=mine")
    assert done.returncode == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("where", ["results/first", "first", "../mine/first"])
def test_only_what_the_command_made_is_removed(where: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "results").mkdir(parents=True)
    done = in_process("dataset=fake", "model.layer=layer9", f"hydra.run.dir={where}", cwd=mine)
    assert done.returncode == 2
    assert [entry.name for entry in mine.iterdir()] == ["results"]
    assert not list((mine / "results").iterdir())


def test_what_was_in_the_run_folder_stays(tmp_path: Path, run_command: Command) -> None:
    (tmp_path / "mine" / ".hydra").mkdir(parents=True)
    (tmp_path / "mine" / "camtrain.log").write_text("mine\n")
    assert run_command("dataset=fake", "model.layer=layer9", "hydra.run.dir=mine").returncode == 2
    assert (tmp_path / "mine" / ".hydra").is_dir()
    assert (tmp_path / "mine" / "camtrain.log").read_text().startswith("mine\n")


def test_a_folder_that_cannot_be_removed_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one on which a volume is mounted."""

    def busy(_folder: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    place = place_of(tmp_path / "a" / "b")
    (tmp_path / "a" / "b").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rmdir", busy)
        place.remove_empty(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    place.remove_empty(tmp_path / "a" / "b")
    assert tmp_path.is_dir()
    assert not list(tmp_path.iterdir())


def test_errors_of_the_system_name_what_is_at_fault(tmp_path: Path) -> None:
    place = place_of(tmp_path / "outputs" / "run")
    denied, full = (os.strerror(number) for number in (errno.EACCES, errno.ENOSPC))
    data, run = tmp_path / "data", tmp_path / "outputs" / "run" / "result.json"
    another = "choose another folder with hydra.run.dir=FOLDER"
    cases = [
        (
            OSError(errno.EACCES, denied, str(data)),
            f"{data}: {denied}; allow this account to use it, or choose another",
        ),
        (OSError(errno.EACCES, denied, str(run)), f"{run}: {denied}; {another}"),
        (OSError(errno.ENOSPC, full, str(run)), f"{run}: {full}; make room there, or {another}"),
        (OSError(errno.ENOSPC, full, str(data)), f"{data}: {full}; make room there"),
        (OSError(errno.ENOSPC, full), f"{place.target}: {full}; make room there, or {another}"),
        (OSError(errno.EIO, "broken", str(data)), f"{data}: broken"),
    ]
    for error, expected in cases:
        assert trouble(error, place) == expected
    assert trouble(OSError(errno.ENOSPC, full), None, "standard output") == f"standard output: {full}; make room there"


@pytest.mark.parametrize("value", ["model.mean=[[1]]", "++evaluate.maps=[[1]]", "++evaluate.maps=${oc.env:HOME}"])
def test_a_list_holds_single_values(value: str, run_command: Command) -> None:
    done = run_command("dataset=fake", value)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


def test_a_users_paths_start_where_the_command_does(tmp_path: Path, run_command: Command) -> None:
    for split in ("train", "val"):
        for kind in ("cat", "it's"):
            (tmp_path / "1e5,true" / split / kind).mkdir(parents=True)
            Image.new("RGB", (16, 16)).save(tmp_path / "1e5,true" / split / kind / "a.png")
    data = ("task=data", "dataset=folder", "dataset.root=1e5,true", "dataset.image_size=16")
    done = run_command(*data, "hydra.job.chdir=true", "hydra.run.dir=o,u't")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o,u't" / "contact_sheet.png").is_file()


def test_a_signal_while_a_checkpoint_is_written(
    tmp_path: Path, run_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(opened: BinaryIO) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        opened.write(b"all")

    monkeypatch.setattr("camtrain.tasks.train.save_state", lambda _, folder: write_atomically(folder / "state", write))
    done = run_command(*TINY, *QUICK, "trainer.max_steps=1", "hydra.run.dir=run")
    run = tmp_path / "run"
    said = f"camtrain: stopped by SIGTERM; what was done so far is in {run}\n"
    assert (done.returncode, done.stderr) == (143, said)
    assert json.loads((run / "result.json").read_text())["status"] == "interrupted"
    assert (run / "state").read_bytes() == b"all"
    assert not list(run.rglob("*.partial"))


def test_a_full_disk(tmp_path: Path, run_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be written any more from the first checkpoint on."""

    def save(_state: object, _folder: Path) -> None:
        monkeypatch.setattr("os.fsync", full)
        full()

    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("camtrain.tasks.train.save_state", save)
    done = run_command(*TINY, *QUICK, "trainer.max_steps=1", "hydra.run.dir=run")
    assert done.returncode == 4
    assert re.fullmatch(r"camtrain: error: .*run: No space left on device; make room there, .*\n", done.stderr)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"
    assert not list(tmp_path.rglob("*.partial"))


def test_a_sweep_goes_on_after_a_job_that_cannot_run(tmp_path: Path, run_command: Command) -> None:
    done = run_command(*TINY, *QUICK, "-m", BASIC, "trainer.max_steps=1", "model.layer=layer9,layer3")
    assert done.returncode == 2
    assert done.stderr.count("camtrain: error: model.layer=layer9") == 1
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert {entry.name for entry in sweep.iterdir()} == {"1", "multirun.yaml"}


def test_a_sweep_of_which_no_job_can_run_leaves_nothing(tmp_path: Path, run_command: Command) -> None:
    assert run_command("-m", BASIC, *TINY, "model.layer=layer9", "seed=0,1").returncode == 2
    assert not list(tmp_path.iterdir())


def test_interrupt(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "camtrain", "dataset=fake", "dataset.train=64", "trainer.epochs=1000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A job that a shell started in the background ignores the signal, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("outputs/runs/*/checkpoint.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    assert errors.strip().endswith(f"camtrain: interrupted; go on with camtrain task=resume run={run}")
    assert "Traceback" not in errors
    assert json.loads((run / "result.json").read_text())["status"] == "interrupted"


def test_help_names_every_choice_and_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['camtrain', '--help']; from camtrain.cli import main; main();"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    for group in ("dataset", "model", "cam", "optim", "trainer", "experiment"):
        assert group in done.stdout
        for choice in (ROOT / "conf" / group).glob("*.yaml"):
            assert choice.stem in done.stdout, f"{group}={choice.stem} is not in the help"


def test_version_and_configuration(run_command: Command, tmp_path: Path) -> None:
    commit = r" \(commit [0-9a-f]{7}\)" if (ROOT / ".git").exists() else ""
    assert re.fullmatch(rf"camtrain \d+\.\d+\.\d+{commit}\n", run_command("--version").stdout)
    shown = run_command("--cfg", "job", "experiment=paper", "dataset.root=x").stdout
    for line in ("name: resnet50", "weights: IMAGENET1K_V1", "score: logit", "unit: nats", "weight: 100"):
        assert line in shown
    assert not list(tmp_path.iterdir())


def test_tab_completion(run_command: Command) -> None:
    for line, expected in (
        ("camtrain model=res", {"model=resnet18", "model=resnet34", "model=resnet50"}),
        ("camtrain cam.sc", {"cam.score="}),
        ("camtrain datas", {"dataset=", "dataset."}),
    ):
        done = run_command("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
        assert expected <= set(done.stdout.split()), done.stdout + done.stderr


def test_every_preset_says_what_was_seen_and_is_in_the_help(run_command: Command) -> None:
    shown = run_command("--help").stdout
    for name in PRESETS:
        text = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()
        assert re.search(r"^#   camtrain .*experiment=" + name, text, re.MULTILINE), name
        assert re.search("[Ss]een|Expect", text), name
        assert re.search(rf"\b{name}\b", shown), name


@pytest.mark.parametrize("arguments", [["--help"], ["task=layers"], ["task=data", "dataset=fake"]])
def test_a_reader_that_has_had_enough(tmp_path: Path, arguments: list[str]) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, "-m", "camtrain", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait() in (0, 141)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("prune=3", "prune is for task=baselines, not for task=train: name one, or leave it out"),
        ("class=cat", "class_name is for task=explain or export, not for task=train: name one, or leave it out"),
        (
            "run=somewhere",
            "run is for task=evaluate, explain, export or resume, not for task=train: name one, or leave it out",
        ),
    ],
)
def test_a_key_without_its_task_trains_nothing(setting: str, said: str, run_command: Command, tmp_path: Path) -> None:
    done = run_command("dataset=fake", "trainer.max_steps=1", setting)
    assert (done.returncode, done.stderr) == (2, f"camtrain: error: {said}\n")
    assert not list(tmp_path.iterdir())
