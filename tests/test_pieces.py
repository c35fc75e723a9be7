"""A batch that goes through the net in pieces: the same step, a foretold time, and an interruption between two."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from refsr_cli.config import TrainConfig, resumed
from refsr_cli.data.benchmarks import trial_photos
from refsr_cli.engine import Progress
from refsr_cli.errors import BadSetting
from refsr_cli.images import Picture, read_image, write_image
from refsr_cli.models import build
from refsr_cli.tasks import train as training_task
from refsr_cli.tasks.train import train
from refsr_cli.training import pace
from refsr_cli.training.lessons import crops_at_once
from refsr_cli.training.records import Pace, Reading, Step
from refsr_cli.training.run import STATE
from refsr_cli.weights.files import load_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def usual(tmp_path_factory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("small")
    picture = read_image(trial_photos().folder / "kodim23.png")
    write_image(folder / "a.png", Picture(picture.pixels[100:164, 100:164], None, "png", None, None, None))
    return TrainConfig(
        model="edsr-baseline",
        scale=2,
        numbers=("blocks=2", "features=8"),
        val=str(folder),
        batch=7,
        patch=12,
        steps=3,
        ema=0.0,
        learning_rate=1e-3,
        log_every=1,
        device="cpu",
        precision="fp32",
        out=folder / "never",
    )


def weights_of(config: TrainConfig) -> dict[str, torch.Tensor]:
    assert config.out is not None
    return load_weights(config.out / "model.safetensors").model.state_dict()


@pytest.mark.parametrize("changes", [{}, {"loss": "0.5*L1+MSE"}, {"skip_above": 1.5}, {"fold_tail": True}])
def test_pieces_add_up_to_the_whole_batch(usual, tmp_path, changes):
    whole = replace(usual, out=tmp_path / "whole", **changes)
    parts = replace(whole, out=tmp_path / "parts", micro_batch=3)
    losses = [[record.loss for record in train(config) if isinstance(record, Step)] for config in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    theirs = weights_of(parts)
    for name, value in weights_of(whole).items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=2e-5)


def test_a_training_interrupted_between_two_pieces_is_resumed_bit_for_bit(usual, tmp_path):
    config = replace(usual, micro_batch=2, out=tmp_path / "whole")
    list(train(config))
    records, steps = train(replace(config, out=tmp_path / "stopped")), 0
    with pytest.raises(KeyboardInterrupt, match="step 1 is saved"):
        for record in records:
            steps += isinstance(record, Step)
            if steps == 1 and isinstance(record, Progress) and record.done == 2:
                os.kill(os.getpid(), signal.SIGINT)
    list(train(resumed(tmp_path / "stopped", {})))
    whole, again = (torch.load(tmp_path / name / STATE, weights_only=True) for name in ("whole", "stopped"))
    assert torch.equal(whole["generator"], again["generator"]) and again["step"] == 3
    for name, value in whole["model"].items():
        assert torch.equal(value, again["model"][name]), name


def test_a_training_interrupted_in_its_first_step_begins_again(usual, tmp_path):
    """And so does one whose reader leaves between two pieces."""
    config = replace(usual, micro_batch=2, out=tmp_path / "whole")
    list(train(config))
    for how in ("interrupted", "left"):
        records = train(replace(config, out=tmp_path / how))
        next(record for record in records if isinstance(record, Progress) and record.done == 1)
        if how == "left":
            records.close()
        else:
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(KeyboardInterrupt, match="step 0 is saved"):
                list(records)
        list(train(resumed(tmp_path / how, {})))
        whole, again = (torch.load(tmp_path / name / STATE, weights_only=True) for name in ("whole", how))
        assert all(torch.equal(value, again["model"][key]) for key, value in whole["model"].items())


def test_the_time_for_all_is_foretold_within_the_first_step(usual, tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "_LONG_SECONDS", 0)
    small = ("blocks=1", "features=8")
    records = list(train(replace(usual, model="edsr", numbers=small, micro_batch=2, out=tmp_path / "run")))
    kinds = [record.kind for record in records]
    assert kinds.index("pace") < kinds.index("step")
    found = next(record for record in records if isinstance(record, Pace))
    assert found.note == "a CPU is too slow for edsr; edsr-baseline is the one it can train"
    assert found.remaining_seconds * found.steps_per_second == pytest.approx(3)
    shown = [(record.done, record.total) for record in records if isinstance(record, Progress)]
    assert shown == 3 * [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert len({record.source for record in records if isinstance(record, Progress)}) == 1, "more than one bar"
    limited = replace(usual, model="edsr", numbers=small, micro_batch=2, out=tmp_path / "limited", minutes=1e-6)
    paces = [record for record in train(limited) if isinstance(record, Pace)]
    assert not paces, "a time that is given is not estimated"


def test_reading_many_photos_is_said_first(usual, tmp_path, monkeypatch):
    monkeypatch.setattr(training_task, "_MANY_PHOTOS", 1)
    records = list(train(replace(usual, data=Path(usual.val), out=tmp_path / "run")))
    assert isinstance(records[0], Reading) and records[0].photos == 1


def test_what_a_batch_takes_in_memory_decides(usual):
    """A published EDSR keeps some 100 KB for each low-resolution pixel: 70 layers of 256 values, and the tail."""
    large, small = build("edsr", 2), build("edsr-baseline", 2)
    config = replace(usual, batch=16, patch=48)
    assert crops_at_once(config, small, CPU, divisible=True) == 16
    assert 1 <= crops_at_once(config, large, CPU, divisible=True) <= 2
    assert crops_at_once(config, large, CPU, divisible=False) == 16
    assert crops_at_once(replace(config, patch=8), large, CPU, divisible=True) == 16
    assert crops_at_once(config, large, torch.device("cuda"), divisible=True) == 16


def test_other_tasks_take_no_pieces(usual, tmp_path):
    restorer = replace(usual, model="restorer", scale=1, numbers=(), degrade="photo", micro_batch=2, out=tmp_path / "r")
    with pytest.raises(BadSetting, match="--micro-batch is for nets that enlarge without references"):
        list(train(restorer))


@pytest.mark.parametrize("changes", [{"model": "srresnet", "numbers": ()}, {"loss": "L1+GAN", "patch": 24}])
def test_what_needs_the_whole_batch_is_not_divided(usual, tmp_path, changes):
    with pytest.raises(BadSetting, match="--micro-batch is for losses of single pictures"):
        list(train(replace(usual, micro_batch=2, out=tmp_path / "run", **changes)))
    assert not (tmp_path / "run").exists()
