"""The training loop: exact resume, interruption, what it writes and what it refuses."""

import csv
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch

from refsr_cli.config import TrainConfig, resumed
from refsr_cli.data.benchmarks import trial_photos
from refsr_cli.errors import BadData, BadSetting, RefsrError
from refsr_cli.images import read_image
from refsr_cli.losses import parse_loss
from refsr_cli.models import build
from refsr_cli.recipes import RECIPES, settings_of
from refsr_cli.tasks import train as training_task
from refsr_cli.tasks.train import train
from refsr_cli.training import pace as pace_of_training
from refsr_cli.training.lessons import Enlarging
from refsr_cli.training.optimizers import learning_rate_at
from refsr_cli.training.records import Finished, Pace, Started, Step
from refsr_cli.training.run import STATE, Run
from refsr_cli.training.validation import Validation
from refsr_cli.weights.files import load_weights
from refsr_cli.weights.store import load_model


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two of the packaged photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted(trial_photos().folder.glob("*.png"))[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def small_val(tmp_path) -> Path:
    """One small image to validate on."""
    from refsr_cli.images import Picture, read_image, write_image

    picture = read_image(trial_photos().folder / "kodim23.png")
    folder = tmp_path / "val"
    folder.mkdir()
    write_image(folder / "a.png", Picture(picture.pixels[100:164, 100:164], None, "png", None, None, None))
    return folder


def settings(photos: Path, small_val: Path, out: Path, **changes) -> TrainConfig:
    given = {
        "model": "edsr-baseline",
        "scale": 2,
        "data": photos,
        "val": str(small_val),
        "out": out,
        "steps": 6,
        "batch": 2,
        "patch": 12,
        "candidates": 2,
        "schedule": "cosine",
        "log_every": 1,
        "validate_every": 4,
        "device": "cpu",
        "precision": "fp32",
    }
    return TrainConfig(**{**given, **changes})


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_records_and_files(photos, small_val, tmp_path):
    out = tmp_path / "run"
    records = list(train(settings(photos, small_val, out)))
    assert isinstance(records[0], Started) and records[0].photos == 2 and not records[0].trial
    steps = [record for record in records if isinstance(record, Step)]
    assert [record.step for record in steps] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(record.loss) for record in steps)
    assert steps[-1].remaining_seconds == 0
    assert [record.step for record in records if isinstance(record, Validation)] == [4, 6]
    assert isinstance(records[-1], Finished)
    files = {
        "model.safetensors",
        "best.safetensors",
        "state.pt",
        "config.json",
        "steps.csv",
        "validation.csv",
        "curves.png",
    }
    assert {path.name for path in out.iterdir()} == files | {"crops", "tensorboard"}
    logged = table(out / "steps.csv")
    assert [row["step"] for row in logged] == ["1", "2", "3", "4", "5", "6"]
    assert [float(row["loss"]) for row in logged] == [record.loss for record in steps]
    assert [(row["step"], row["scale"]) for row in table(out / "validation.csv")] == [("4", "2"), ("6", "2")]
    for name in ("curves.png", "crops/000004_x2.png", "crops/000006_x2.png"):
        assert read_image(out / name).pixels.std() > 5, f"{name} shows something"
    assert load_weights(out / "model.safetensors").model.scale == 2
    assert json.loads((out / "config.json").read_text())["patch"] == 12


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "state.pt", weights_only=True)
    return {**{f"model.{key}": value for key, value in state["model"].items()}, **state["averaged"]}


def test_resuming_continues_bit_for_bit(photos, small_val, tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    list(train(settings(photos, small_val, straight)))

    stopped = train(settings(photos, small_val, broken))
    for record in stopped:
        if isinstance(record, Step) and record.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            break
    with pytest.raises(KeyboardInterrupt):
        list(stopped)
    assert torch.load(broken / "state.pt", weights_only=True)["step"] == 3
    list(train(resumed(broken, {})))

    expected, found = weights_of(straight), weights_of(broken)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_another_seed_gives_other_weights(photos, small_val, tmp_path):
    for seed in (0, 1):
        list(train(settings(photos, small_val, tmp_path / str(seed), seed=seed, steps=1)))
    first, second = weights_of(tmp_path / "0"), weights_of(tmp_path / "1")
    assert not torch.equal(first["model.head.weight"], second["model.head.weight"])


def test_checkpoints_without_shares_and_the_largest_seed(photos, small_val, tmp_path):
    """As earlier versions wrote them: every weight learned at the whole rate."""
    out = tmp_path / "run"
    list(train(settings(photos, small_val, out, steps=1, seed=2**63 - 1)))
    state = torch.load(out / STATE, weights_only=True)
    for group in state["optimizer"]["param_groups"]:
        del group["share"]
    torch.save(state, out / STATE)
    assert list(train(resumed(out, {"steps": 2})))[-1].step == 2


def test_training_learns(photos, small_val, tmp_path):
    """Far better than the untrained net after a few dozen steps, through the folded tail too."""
    for fold in (False, True):
        config = settings(
            photos, small_val, tmp_path / f"run{fold}", steps=40, learning_rate=1e-3, fold_tail=fold, ema=0.5, batch=4
        )
        losses = [record.loss for record in train(config) if isinstance(record, Step)]
        assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_the_average_trails_the_weights(photos, small_val, tmp_path):
    list(train(settings(photos, small_val, tmp_path / "run", ema=0.0, steps=2)))
    weights = weights_of(tmp_path / "run")
    assert torch.equal(weights["model.head.weight"], weights["module.head.weight"])
    list(train(settings(photos, small_val, tmp_path / "slow", ema=0.999, steps=2)))
    weights = weights_of(tmp_path / "slow")
    assert not torch.equal(weights["model.head.weight"], weights["module.head.weight"])


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is not there")
def test_killed_at_any_moment_it_goes_on_as_if_nothing_had_been(photos, small_val, tmp_path):
    """Five times, at moments that chance chooses; no finished checkpoint is lost, and the weights end the same."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    config = settings(photos, small_val, killed, steps=60, batch=1, patch=8, checkpoint_minutes=0.0)
    list(train(replace(config, out=straight, checkpoint_minutes=5.0)))
    command = [sys.executable, "-m", "refsr_cli", "train", "--quiet"]
    first = ["--model", "edsr-baseline", "-s", "2", "--steps", "60", "--data", str(photos), "--val", str(small_val)]
    first += ["--batch", "1", "--patch", "8", "--candidates", "2", "--schedule", "cosine", "--validate-every", "4"]
    first += ["--device", "cpu", "--precision", "fp32", "--checkpoint-minutes", "0", "--log-every", "1"]
    chance, reached = Random(5), 0
    for attempt in range(5):
        with subprocess.Popen(
            [*command, *(["--resume", str(killed)] if attempt else [*first, "--out", str(killed)])]
        ) as process:
            deadline = time.monotonic() + 120
            while not (killed / STATE).exists() or torch.load(killed / STATE, weights_only=True)["step"] <= reached:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(chance.random() * 0.4)
            process.kill()
        state = torch.load(killed / STATE, weights_only=True)
        assert reached < state["step"] < 60
        assert load_weights(killed / "model.safetensors").model.scale == 2
        reached = state["step"]
    list(train(resumed(killed, {})))
    assert [row["step"] for row in table(killed / "steps.csv")] == [str(step) for step in range(1, 61)]
    expected, found = weights_of(straight), weights_of(killed)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_learning_rates():
    config = TrainConfig(model="edsr", learning_rate=1e-4, decay_every=200_000)
    assert [learning_rate_at(step, config) for step in (0, 199_999, 200_000, 400_000)] == [1e-4, 1e-4, 5e-5, 2.5e-5]
    cosine = TrainConfig(model="edsr", learning_rate=1.0, schedule="cosine", steps=110, warmup=10)
    assert learning_rate_at(0, cosine) == pytest.approx(0.1)
    assert learning_rate_at(10, cosine) == 1.0
    assert learning_rate_at(60, cosine) == pytest.approx(0.5)
    assert learning_rate_at(110, cosine) == pytest.approx(0.0)


def test_as_many_steps_as_fit(monkeypatch, photos, small_val, tmp_path):
    """Every look at the clock takes a twentieth of a second; a validation after step 20 takes one."""
    moments, extra = itertools.count(), [0.0]
    clock = SimpleNamespace(monotonic=lambda: next(moments) / 1000 + extra[0])
    usual, validate = Run.advance, training_task.validate_once

    def advance(self, interrupted):
        yield from usual(self, interrupted)
        extra[0] += 0.05

    def slow(*arguments):
        extra[0] += 1.0
        yield from validate(*arguments)

    monkeypatch.setattr(Run, "advance", advance)
    monkeypatch.setattr(training_task, "validate_once", slow)
    for module in (training_task, pace_of_training):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(pace_of_training, "_SETTLED_STEPS", 15)
    config = settings(photos, small_val, tmp_path / "run", minutes=0.05, steps=100_000, validate_every=20)
    records = list(train(config))
    (pace,) = (record for record in records if isinstance(record, Pace))
    assert 54 <= pace.steps <= 62, "three seconds, at nearly 20 steps a second"
    assert 20 < records[-1].step <= 42, "one of them, and a share of what was left, went into validations"
    rates = [record.learning_rate for record in records if isinstance(record, Step)]
    assert rates[-1] < 0.05 * max(rates), "the schedule ends with the steps"
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (kept["steps"], kept["minutes"]) == (records[-1].step, None)


def test_time_that_is_over_ends_a_training(photos, small_val, tmp_path):
    config = settings(photos, small_val, tmp_path / "run", minutes=1e-6, steps=100_000, validate_every=1000)
    assert list(train(config))[-1].step == 2  # one more than it takes to begin
    with pytest.raises(BadSetting, match="--minutes must be above 0"):
        settings(photos, small_val, tmp_path, minutes=0.0)


def test_starting_from_weights(photos, small_val, tmp_path):
    list(train(settings(photos, small_val, tmp_path / "first", steps=2)))
    first = tmp_path / "first" / "model.safetensors"
    second = settings(photos, small_val, tmp_path / "second", init_from=str(first), steps=1, learning_rate=1e-12)
    list(train(second))
    wanted, found = (load_weights(path).model.state_dict() for path in (first, tmp_path / "second/model.safetensors"))
    assert all(torch.allclose(wanted[key], found[key], atol=1e-6) for key in wanted)
    changes = {"init_from": str(first), "steps": 1, "learning_rate": 1e-12}
    started, *_ = list(train(settings(photos, small_val, tmp_path / "third", scale=4, **changes)))
    other = load_weights(tmp_path / "third/model.safetensors").model.state_dict()
    assert all(torch.allclose(value, other[key], atol=1e-6) for key, value in wanted.items()), "all is taken over"
    taken, new = f"{len(wanted)} of {len(other)} weights", "tail.0.2.weight, tail.0.2.bias"
    assert started.note == f"{taken} are those of {first}; new are {new}"
    with pytest.raises(BadSetting, match="is another net"):
        list(train(settings(photos, small_val, tmp_path / "fourth", init_from=str(first), model="edsr")))


def test_starting_from_what_fits(photos, small_val, tmp_path):
    """A net of more blocks begins with those of a smaller one; nothing at all is no start."""
    list(train(settings(photos, small_val, tmp_path / "first", steps=1, numbers=("blocks=2",))))
    changes = {"init_from": str(tmp_path / "first/model.safetensors"), "init_partly": True, "steps": 1}
    larger = settings(photos, small_val, tmp_path / "second", **changes, numbers=("blocks=3",), learning_rate=1e-12)
    started, *_ = list(train(larger))
    files = (tmp_path / name / "model.safetensors" for name in ("first", "second"))
    wanted, found = (load_weights(file).model.state_dict() for file in files)
    both = wanted.keys() & found.keys()
    assert started.note.startswith(f"{len(both)} of {len(found)} weights are those of ")
    assert "body.2.conv1.weight" in found.keys() - both
    assert all(torch.allclose(wanted[key], found[key], atol=1e-6) for key in both)
    with pytest.raises(BadSetting, match="not one of its weights"):
        list(train(settings(photos, small_val, tmp_path / "third", **changes, model="srdensenet")))
    with pytest.raises(BadSetting, match="--init-from"):
        settings(photos, small_val, tmp_path / "fourth", init_partly=True)


def test_only_the_weights_of_that_name_are_trained(photos, small_val, tmp_path):
    list(train(settings(photos, small_val, tmp_path / "first", steps=2)))
    start = tmp_path / "first/model.safetensors"
    list(train(settings(photos, small_val, tmp_path / "second", init_from=str(start), only="tail", steps=3, ema=0.0)))
    before, after = (load_weights(its).model.state_dict() for its in (start, tmp_path / "second/model.safetensors"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("tail.") for name in changed)
    with pytest.raises(BadSetting, match=r"begins with 'tale'; there are \['body', .*'tail'\]"):
        list(train(settings(photos, small_val, tmp_path / "third", only="tale")))


def test_what_is_refused(photos, small_val, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(BadSetting, match="nothing to train"):
        list(train(settings(photos, small_val, out, model="bicubic")))
    with pytest.raises(BadData, match="smaller patch"):
        list(train(settings(photos, small_val, out, patch=2000)))
    with pytest.raises(BadData, match="not a folder"):
        list(train(settings(tmp_path / "nowhere", small_val, out)))
    assert not out.exists(), "nothing is written before the request is known to be good"
    with pytest.raises(BadSetting, match="cannot be resumed"):
        resumed(tmp_path / "nowhere", {})
    list(train(settings(photos, small_val, out, steps=1)))
    with pytest.raises(BadSetting, match="holds a training already"):
        list(train(settings(photos, small_val, out)))
    (out / "state.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(BadData, match="cannot resume"):
        list(train(resumed(out, {})))


def test_a_run_that_lost_its_checkpoint_is_left_alone(photos, small_val, tmp_path):
    """What was trained is not replaced by a training from nothing; a cut checkpoint is named."""
    out = tmp_path / "run"
    list(train(settings(photos, small_val, out, steps=4)))
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(BadSetting, match="has 4 steps already; --steps 3 is fewer"):
        list(train(resumed(out, {"steps": 3})))
    whole = (out / STATE).read_bytes()
    for length in (0, 10, 5000, len(whole) - 100):
        (out / STATE).write_bytes(whole[:length])
        with pytest.raises(BadData, match=r"state\.pt is damaged"):
            list(train(resumed(out, {"steps": 5})))
    (out / STATE).unlink()
    with pytest.raises(BadData, match=r"state\.pt is missing; begin anew from --init-from .*model\.safetensors"):
        list(train(resumed(out, {"steps": 5})))
    assert (out / "model.safetensors").read_bytes() == before
    with pytest.raises(BadSetting, match=r"there is no .*config\.json"):
        resumed(tmp_path / "nowhere", {})
    with pytest.raises(BadSetting, match="leave out --set"):
        resumed(out, {"numbers": ("blocks=2",)})


def test_a_training_that_was_never_scored_names_no_best(photos, small_val, tmp_path):
    out = tmp_path / "run"
    records = train(settings(photos, small_val, out, steps=50, validate_every=100))
    next(record for record in records if isinstance(record, Step) and record.step == 2)
    records.close()
    (finished,) = [r for r in train(resumed(out, {"steps": 2})) if isinstance(r, Finished)]
    assert finished.best is not None and finished.best.exists(), "the last step is scored after all"


def test_a_reader_who_leaves_loses_nothing(photos, small_val, tmp_path):
    records = train(settings(photos, small_val, tmp_path / "run"))
    next(record for record in records if isinstance(record, Step) and record.step == 2)
    records.close()
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 2


def test_resuming_takes_only_what_can_change(photos, small_val, tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    list(train(settings(Path("photos"), Path("val"), Path("run"), steps=1)))
    monkeypatch.chdir(photos)  # paths hold from anywhere
    records = list(train(resumed(out, {"steps": 2, "precision": "bf16"})))
    assert isinstance(records[-1], Finished) and records[-1].step == 2
    with pytest.raises(BadSetting, match="leave out --seed"):
        resumed(out, {"seed": 3})
    (out / "config.json").write_text("[]")
    with pytest.raises(BadSetting, match="cannot be resumed"):
        resumed(out, {})


def test_a_bad_validation_set_is_said_at_once(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData, match="holds no image"):
        list(train(settings(photos, tmp_path / "empty", tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_weights_that_exploded_do_not_replace_a_good_checkpoint(photos, small_val, tmp_path):
    out = tmp_path / "run"
    list(train(settings(photos, small_val, out, steps=2)))
    with pytest.raises(RefsrError, match="--learning-rate"):
        list(train(resumed(out, {"steps": 9, "learning_rate": 1e30, "checkpoint_minutes": 0.0, "log_every": 100})))
    assert all(value.isfinite().all() for value in weights_of(out).values())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_number_formats_train_too(photos, small_val, tmp_path, precision):
    config = settings(
        photos,
        small_val,
        tmp_path / "run",
        numbers=("blocks=4",),
        precision=precision,
        steps=30,
        learning_rate=1e-3,
        clip=1.0,
        warmup=3,
    )
    losses = [record.loss for record in train(config) if isinstance(record, Step)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_unreadable_photos_are_counted(photos, small_val, tmp_path):
    (photos / "broken.png").write_bytes(b"nonsense")
    records = list(train(settings(photos, small_val, tmp_path / "run", steps=1)))
    assert (records[0].photos, records[0].skipped) == (2, 1)


def test_an_exploding_loss_stops_the_training(photos, small_val, tmp_path):
    with pytest.raises(RefsrError, match="--learning-rate"):
        list(train(settings(photos, small_val, tmp_path / "run", learning_rate=1e30)))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_settings_of_a_training(name):
    config = TrainConfig(**settings_of(name))
    model = build(config.model, config.scale)
    papers = config.model != "restorer"  # which is ours, and so is its moving average
    assert config.recipe == name and config.ema == (0.0 if papers else 0.999)
    assert {term.name for term in parse_loss(config.loss)} & {"L1", "MSE", "VGG54", "Charbonnier"}
    if "srdensenet" in name:
        assert model.luma_only and config.patch * config.scale == 100
        epoch = 50_000 / config.batch
        assert config.steps == 60 * epoch
        assert learning_rate_at(int(30 * epoch), config) == pytest.approx(1e-5)
    if name in ("edsr", "edsr-baseline", "mdsr", "mdsr-baseline"):
        assert (config.batch, config.patch, config.loss) == (16, 48, "L1")
        assert learning_rate_at(199_999, config) == 2 * learning_rate_at(200_000, config) == 1e-4


def test_a_recipe_can_be_changed_and_is_written_down(photos, small_val, tmp_path):
    small = {"data": photos, "val": str(small_val), "steps": 1, "batch": 1, "patch": 8, "device": "cpu"}
    config = TrainConfig(**{**settings_of("srresnet-x2"), **small, "numbers": ("blocks=8",), "out": tmp_path / "run"})
    (started, *_) = list(train(config))
    assert started.parameters == 780_109
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert (saved["recipe"], saved["loss"], saved["steps"], saved["numbers"]) == ("srresnet-x2", "MSE", 1, ["blocks=8"])
    assert load_weights(tmp_path / "run/model.safetensors").model.config.blocks == 8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"numbers": ("block=8",)}, "unknown number of model 'edsr-baseline' 'block'"),
        (
            {"numbers": ("blocks=many",)},
            "is a whole number from 1 to 4096 such as 16, not 'many'",
        ),
        ({"numbers": ("blocks",)}, "such as 16"),
        ({"numbers": ("blocks=0",)}, "blocks"),
        ({"numbers": ("res_scale=0.1", "features=-4")}, "features"),
        ({"loss": "L4"}, "unknown loss 'L4'"),
        ({"loss": "L1+GAN", "critic": "none"}, "unknown critic 'none'"),
        ({"loss": "L1+GAN", "model": "mdsr-baseline"}, "--critic srgan is for crops of one size"),
        ({"loss": "L1+GAN", "critic": "patch", "patch": 4}, "needs crops of 24 pixels, not 8"),
        ({"loss": "L1+GAN", "critic": "patch", "patch": 12, "fold_tail": True}, "needs crops of 24 pixels, not 20"),
        ({"loss": "VGG54", "patch": 7}, "VGG54 needs crops of 16 pixels, not 14"),
    ],
)
def test_numbers_and_losses_that_cannot_be(photos, small_val, tmp_path, changes, said):
    with pytest.raises(RefsrError, match=said):
        list(train(settings(photos, small_val, tmp_path / "run", **changes)))
    assert not (tmp_path / "run").exists()


def test_one_net_for_several_scales(photos, small_val, tmp_path):
    """One scale a batch, each of them scored, and one file that enlarges by each."""
    config = settings(
        photos, small_val, tmp_path / "run", model="mdsr-baseline", scale=4, numbers=("blocks=2",), ema=0.0
    )
    records = list(train(config))
    scored = [(record.step, record.scale) for record in records if isinstance(record, Validation)]
    assert scored == [(4, 2), (4, 3), (4, 4), (6, 2), (6, 3), (6, 4)]
    for scale in (2, 3, 4):
        loaded = load_model(None, scale, str(tmp_path / "run/model.safetensors")).model
        assert loaded.scale == scale and loaded(torch.rand(1, 3, 6, 5)).shape == (1, 3, 6 * scale, 5 * scale)


def test_an_adversarial_training_resumes_with_its_critic(photos, small_val, tmp_path):
    """Every term is told, and the critic is as bit for bit the same as the net."""
    common = {"loss": "1*L1+0.01*WGAN_GP", "critic": "patch", "patch": 16, "batch": 1, "validate_every": 100}
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    records = list(train(settings(photos, small_val, straight, **common)))
    steps = [record for record in records if isinstance(record, Step)]
    assert all(set(record.terms) == {"L1", "WGAN_GP"} for record in steps)
    assert all(record.loss == pytest.approx(sum(record.terms.values())) for record in steps)
    list(train(settings(photos, small_val, broken, **{**common, "steps": 3, "schedule": "constant"})))
    list(train(resumed(broken, {"steps": 6})))
    again = tmp_path / "again"
    list(train(settings(photos, small_val, again, **{**common, "schedule": "constant"})))
    one, two = (
        torch.load(folder / STATE, weights_only=True)["lesson"]["objective"]["critic"] for folder in (again, broken)
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
    for changes in ({"critic": "srgan"}, {"stream": True}):
        with pytest.raises(BadData, match=r"another --loss or --critic, or .*--stream"):
            list(train(resumed(broken, {"steps": 7, **changes})))
    list(train(resumed(broken, {"steps": 7})))  # what was refused was not kept


@pytest.mark.parametrize(("model", "critic"), [("edsr-baseline", "srgan"), ("mdsr-baseline", "patch")])
def test_critics_see_crops_of_the_size_that_is_compared(photos, small_val, tmp_path, model, critic):
    """The folded tail leaves out the border; MDSR's crops are of three sizes."""
    config = settings(
        photos, small_val, tmp_path / "run", model=model, numbers=("blocks=1",), loss="L1+GAN", critic=critic,
        patch=14, batch=1, steps=4, fold_tail=True,
    )  # fmt: skip
    assert isinstance(list(train(config))[-1], Finished)


def test_a_validation_that_was_interrupted_is_made_up_for(photos, small_val, tmp_path, monkeypatch):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    whole = [record for record in train(settings(photos, small_val, straight)) if isinstance(record, Validation)]

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("refsr_cli.training.validation._validate", interrupted)
        for _ in range(2):  # at the first, and at the last step
            with pytest.raises(KeyboardInterrupt):
                list(train(resumed(broken, {}) if broken.exists() else settings(photos, small_val, broken)))
    later = [record for record in train(resumed(broken, {})) if isinstance(record, Validation)]
    assert later == whole and (broken / "best.safetensors").exists()
    assert table(broken / "validation.csv") == table(straight / "validation.csv")
    assert not [record for record in train(resumed(broken, {})) if isinstance(record, Validation)]


def test_a_recipe_that_goes_on_says_so(photos, small_val, tmp_path, monkeypatch):
    small = {"data": photos, "val": str(small_val), "steps": 1, "batch": 1, "patch": 8, "device": "cpu", "loss": "L1"}
    config = TrainConfig(**{**settings_of("srgan"), **small, "numbers": ("blocks=1",), "out": tmp_path / "run"})
    started = next(iter(train(config)))
    assert "--init-from" in (started.note or "")


def test_batches_that_explode_are_left_out(photos, small_val, tmp_path, monkeypatch):
    """Here every fifth loss is thousandfold: those batches change nothing, are counted, and the rest is learned."""
    losses_of, calls = Enlarging.losses, []

    def spoiled(self, *arguments):
        calls.append(1)
        (terms,) = losses_of(self, *arguments)
        yield {name: term * (1000 if len(calls) % 5 == 0 else 1) for name, term in terms.items()}

    monkeypatch.setattr(Enlarging, "losses", spoiled)
    records = list(train(settings(photos, small_val, tmp_path / "run", steps=12, skip_above=5.0)))
    steps = [record for record in records if isinstance(record, Step)]
    assert [record.skipped for record in steps] == [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2]
    assert math.isnan(steps[4].loss) and all(record.loss < 5 for record in steps if not math.isnan(record.loss))

    def hopeless(self, *arguments):
        yield {"L1": next(losses_of(self, *arguments))["L1"] / 0}

    monkeypatch.setattr(  # what a critic says may be negative, and has no usual
        Enlarging,
        "losses",
        lambda self, *arguments: iter([{**next(losses_of(self, *arguments)), "WGAN_GP": torch.tensor(-1e4)}]),
    )
    records = list(train(settings(photos, small_val, tmp_path / "critical", steps=6, skip_above=5.0)))
    assert max(record.skipped for record in records if isinstance(record, Step)) == 0
    monkeypatch.setattr(Enlarging, "losses", hopeless)
    with pytest.raises(RefsrError, match="50 batches in a row"):
        list(train(settings(photos, small_val, tmp_path / "hopeless", steps=100, skip_above=5.0)))


def test_a_run_that_had_ended_goes_on_for_some_minutes(photos, small_val, tmp_path):
    list(train(settings(photos, small_val, tmp_path / "run", steps=2, validate_every=1000)))
    assert list(train(resumed(tmp_path / "run", {"minutes": 1e-6})))[-1].step == 2 + 2
