"""Options of the papers' own training code: optimisers, augmentation, losses that come in later, what is validated."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from refsr_cli.cli import app
from refsr_cli.config import EvaluateConfig, TrainConfig, resumed
from refsr_cli.data.benchmarks import trial_photos
from refsr_cli.data.pairs import Pair, PairWindows
from refsr_cli.data.photos import PhotoSet
from refsr_cli.data.stream import PhotoStream
from refsr_cli.errors import BadData, BadSetting
from refsr_cli.images import read_image, to_tensor
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.layers.critic import CRITICS
from refsr_cli.losses import Objective
from refsr_cli.models import build
from refsr_cli.recipes import RECIPES, settings_of
from refsr_cli.tasks.evaluate import Summary, evaluate
from refsr_cli.tasks.train import train
from refsr_cli.training.optimizers import optimizer_of
from refsr_cli.training.records import Started, Step
from refsr_cli.training.run import STATE
from refsr_cli.training.validation import Validation
from refsr_cli.weights.store import load_model

CPU = torch.device("cpu")
SMALL = ("blocks=1", "features=4")


@pytest.fixture(scope="module")
def val(tmp_path_factory) -> Path:
    """Three small numbered images."""
    folder = tmp_path_factory.mktemp("val")
    photo = Image.open(trial_photos().folder / "kodim23.png").convert("RGB")
    for number in (800, 801, 802):
        photo.crop((number - 700, 100, number - 652, 148)).save(folder / f"{number:04d}.png")
    return folder


def settings(val: Path, out: Path, **changes) -> TrainConfig:
    usual = {"model": "edsr-baseline", "scale": 2, "numbers": SMALL, "val": str(val), "out": out, "steps": 2}
    return TrainConfig(**{**usual, "batch": 2, "patch": 12, "log_every": 1, "device": "cpu", **changes})


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop"])
def test_optimisers_are_those_of_torch(name):
    """Two steps on one weight, beside the same class with the same numbers written out."""
    numbers = {"betas": (0.8, 0.9), "epsilon": 1e-3, "weight_decay": 0.1, "momentum": 0.7}
    config = TrainConfig(model="edsr", optimizer=name, learning_rate=0.01, **numbers)
    theirs = {
        "Adam": {"betas": (0.8, 0.9), "eps": 1e-3},
        "AdamW": {"betas": (0.8, 0.9), "eps": 1e-3},
        "SGD": {"momentum": 0.7},
        "RMSprop": {"eps": 1e-3, "alpha": 0.99},
    }
    ours, expected = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    steppers = [
        optimizer_of([{"params": [ours]}], config, CPU),
        getattr(torch.optim, name)([expected], lr=0.01, weight_decay=0.1, **theirs[name]),
    ]
    for factor in (1.0, -3.0):
        for weight, stepper in zip((ours, expected), steppers, strict=True):
            weight.grad = factor * weight.detach() ** 2
            stepper.step()
    assert torch.equal(ours, expected) and not torch.equal(ours, torch.tensor([1.0, -2.0]))


def test_another_optimiser_trains_and_goes_on(val, tmp_path):
    config = settings(val, tmp_path / "whole", optimizer="SGD", momentum=0.5, learning_rate=0.01, steps=4)
    list(train(config))
    list(train(replace(config, out=tmp_path / "half", steps=2)))
    list(train(resumed(tmp_path / "half", {"steps": 4})))
    whole, again = (torch.load(tmp_path / name / STATE, weights_only=True) for name in ("whole", "half"))
    assert all("momentum_buffer" in state for state in whole["optimizer"]["state"].values())
    assert all(torch.equal(value, again["model"][key]) for key, value in whole["model"].items())
    with pytest.raises(BadSetting, match="leave out --optimizer"):
        resumed(tmp_path / "half", {"optimizer": "Adam"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--betas", "0.9"], "2 numbers such as 0.9,0.999"),
        (["--betas", "0.9,1"], "--betas must be at least 0 and below 1"),
        (["--momentum", "1.5"], "--momentum must be at least 0 and below 1"),
        (["--epsilon", "0"], "--epsilon must be above 0"),
        (["--weight-decay", "-1"], "--weight-decay must not be negative"),
        (["--pixels-first", "-1"], "--pixels-first must not be negative"),
        (["--jitter"], "--jitter changes the references of --pairs"),
        (["--recipe", "edsr", "--model", "edrs", "-s", "4"], "did you mean 'edsr'"),
        (["--micro-batch", "0"], "--micro-batch must be at least 1"),
        (["--optimizer", "LBFGS"], "'LBFGS' is not one of"),
    ],
)
def test_options_that_cannot_be(options, said):
    shown = CliRunner().invoke(app, ["train", "--model", "edsr-baseline", *options])
    assert shown.exit_code == 2 and said in " ".join(shown.output.split())


def test_a_net_that_keeps_what_it_starts_from_needs_it(val, tmp_path):
    config = settings(val, tmp_path / "run", model="refnet", scale=4, numbers=(), init_from="none")
    with pytest.raises(BadSetting, match="leave --init-from none out"):
        list(train(config))


def test_relevance_can_be_left_out_of_datsr():
    """With it the correlation of a match changes the result, without it not."""
    small = {"features": 8, "depths": (1,), "heads": (2,), "groups": 2, "textures": (4, 6, 8), "matched": (4, 6, 8)}
    lr, reference = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 64, 64)
    for relevance in (True, False):
        net = build("datsr", 4, {**small, "relevance": relevance}).eval()
        for weight in net.restoration.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        with torch.no_grad():
            features = net.look(lr, [reference])
            other = replace(features, score=features.score * 0.2)
            assert torch.equal(net(lr, features), net(lr, other)) is not relevance


@pytest.mark.parametrize("augment", [True, False])
def test_crops_of_a_stream_are_turned_unless_that_is_switched_off(augment):
    rows, columns = torch.meshgrid(torch.arange(60), torch.arange(60), indexing="ij")
    photo = torch.stack([4 * columns, 4 * rows, 0 * rows]).to(torch.uint8)
    stream = PhotoStream([photo], [2], 8, CPU, batch=40, augment=augment)
    _, hr = stream.draw(2, torch.Generator().manual_seed(0))
    upright = (hr[:, 0].diff(dim=-1) > 0).all((1, 2)) & (hr[:, 1].diff(dim=-2) > 0).all((1, 2))
    assert bool(upright.all()) is not augment and bool(upright.any())


@pytest.mark.parametrize("augment", [True, False])
def test_crops_are_turned_unless_that_is_switched_off(augment):
    """A photo whose red grows to the right and whose green grows downwards."""
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    photo = torch.stack([4 * columns, 4 * rows, 0 * rows]).to(torch.uint8)
    photos = PhotoSet([photo], [2], 8, CPU)
    _, hr = photos.batch(40, 2, torch.Generator().manual_seed(0), augment=augment)
    upright = (hr[:, 0].diff(dim=-1) > 0).all((1, 2)) & (hr[:, 1].diff(dim=-2) > 0).all((1, 2))
    assert bool(upright.all()) is not augment and bool(upright.any())


def test_references_change_their_colours_and_pictures_do_not():
    photos = sorted(trial_photos().folder.glob("*.png"))
    pairs = [Pair(photos[0], (photos[1],))]
    plain, jittered, again = (PairWindows([], pairs, 96, 0.0, 3, jitter=jitter)[5] for jitter in (False, True, True))
    assert torch.equal(plain.pixels, jittered.pixels)
    assert torch.equal(jittered.references[0], again.references[0])
    before, after = (item.references[0].float() for item in (plain, jittered))
    assert before.shape == after.shape and 1 < float((before - after).abs().mean()) < 80
    kept = np.corrcoef(before.mean(0).flatten(), after.mean(0).flatten())[0, 1]
    assert kept > 0.95, "it shows something else"


def test_other_losses_come_in_after_the_pixels(val, tmp_path):
    """By steps, however many pieces a batch has and wherever a training was resumed; a batch then is no explosion for
    being larger than those before."""
    config = settings(val, tmp_path / "whole", loss="1*L1+100*RGAN", pixels_first=2, steps=4, critic="patch", patch=16)
    config = replace(config, skip_above=2.0, ema=0.0)
    terms = [record.terms for record in train(config) if isinstance(record, Step)]
    assert [item["RGAN"] > 0 for item in terms] == [False, False, True, True] and all(item["L1"] > 0 for item in terms)
    list(train(replace(config, out=tmp_path / "half", steps=1)))
    again = [record.terms for record in train(resumed(tmp_path / "half", {"steps": 4})) if isinstance(record, Step)]
    assert again == terms[1:]
    for loss in ("GAN", "VGG54"):
        with pytest.raises(BadSetting, match="--pixels-first needs a --loss with a term of pixels"):
            list(train(replace(config, out=tmp_path / "never", loss=loss)))


def test_nothing_is_learned_of_a_critic_while_pixels_count_alone():
    sr, hr = torch.rand(2, 3, 32, 32, requires_grad=True), torch.rand(2, 3, 32, 32)
    objective, generator = Objective("1*L1+0.5*GAN", CPU, sides=[32]), torch.Generator().manual_seed(0)
    critic = {key: value.clone() for key, value in objective.state_dict()["critic"].items()}
    terms = objective(sr, hr, 1e-4, generator, pixels_only=True)
    assert set(terms) == {"L1", "GAN"} and float(terms["GAN"]) == 0 and float(terms["L1"].detach()) > 0
    assert all(torch.equal(value, critic[key]) for key, value in objective.state_dict()["critic"].items())
    assert float(objective(sr, hr, 1e-4, generator)["GAN"].detach()) > 0
    assert not all(torch.equal(value, critic[key]) for key, value in objective.state_dict()["critic"].items())


def test_options_of_an_optimiser_change_on_resuming(val, tmp_path):
    list(train(settings(val, tmp_path / "run", steps=1)))
    list(train(resumed(tmp_path / "run", {"steps": 2, "weight_decay": 0.5, "betas": (0.5, 0.6)})))
    (group,) = torch.load(tmp_path / "run" / STATE, weights_only=True)["optimizer"]["param_groups"]
    assert (group["weight_decay"], group["betas"]) == (0.5, (0.5, 0.6))


def test_the_published_critic_of_reference_nets():
    """Batch norm under a gradient penalty too, pictures as they are, and a probability: so a picture is judged by what
    is beside it, and grey is not zero."""
    torch.manual_seed(0)
    critic = CRITICS["srntt-published"]([160], False).train()
    assert sum(item.numel() for item in critic.parameters()) == 5_242_529
    x = torch.rand(4, 3, 40, 40)
    answers = critic(x)
    assert answers.shape == (4, 1) and answers.min() > 0 and answers.max() < 1
    assert not torch.allclose(critic(x[:2]), answers[:2], atol=1e-7)
    layers = [item for item in critic.modules() if isinstance(item, torch.nn.Conv2d | torch.nn.Linear)]
    assert all(float(item.weight.detach().std()) == pytest.approx(0.02, rel=0.15) for item in layers)


def test_recipes_of_the_published_code():
    """The option files of C2-Matching and DATSR."""
    c2, datsr = (TrainConfig(**settings_of(name)) for name in ("c2-gan", "datsr-gan"))
    assert (c2.decay_at, c2.pixels_first, c2.steps) == ((72_545, 211_040), 10_000, 255_000)
    assert (datsr.decay_at, datsr.pixels_first, datsr.steps) == ((72_545, 161_040), 0, 400_000)
    for config in (c2, datsr):
        assert (config.batch, config.patch * config.scale, config.critic) == (9, 160, "srntt-published")
        assert (config.optimizer, config.betas, config.weight_decay) == ("Adam", (0.9, 0.999), 0.0)
    assert "tenth of the rate" in RECIPES["ssen"].source


def test_edsr_for_3_and_4_begins_with_that_for_2(val, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    recipe = {**settings_of("edsr-baseline"), "steps": 1, "batch": 1, "patch": 12}

    def note(out: str, **changes) -> str | None:
        config = settings(val, Path(out), **{**recipe, **changes})
        return next(item.note for item in list(train(config)) if isinstance(item, Started))

    assert note("before", scale=4) is None, "there is none of these numbers"
    assert note("runs/edsr-baseline-x2") is None
    shown = note("after", scale=4)
    assert shown is not None and "are those of runs/edsr-baseline-x2/best.safetensors" in shown
    assert note("anew", scale=4, init_from="none") is None
    packaged = note("packaged", scale=3, numbers=())
    assert packaged is not None and "are those of edsr-baseline-x2" in packaged


def test_the_loss_is_validated_beside_the_psnr(val, tmp_path):
    records = list(train(settings(val, tmp_path / "run", loss="0.5*L1+MSE", validate_every=2)))
    found = next(item for item in records if isinstance(item, Validation))
    model = load_model(None, None, str(tmp_path / "run/model.safetensors")).model
    assert found.loss is not None and 0 < found.loss < 1
    upscaler, losses = Upscaler(model, device="cpu", precision="fp32", self_ensemble=False), []
    for path in sorted(val.iterdir()):
        sample = replace(trial_photos(), folder=val).sample(path, 2)
        difference = to_tensor(upscaler(sample.lr, 2).pixels) - to_tensor(read_image(path).pixels)
        losses.append(float(0.5 * difference.abs().mean() + difference.square().mean()))
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert "loss" in (tmp_path / "run" / "validation.csv").read_text().splitlines()[0]
    assert any(isinstance(item, Step) for item in records)


def test_only_images_of_a_range_are_scored(val):
    def summary(**changes) -> Summary:
        (*_, last) = evaluate(EvaluateConfig(dataset=str(val), model="bicubic", device="cpu", **changes))
        assert isinstance(last, Summary)
        return last

    assert summary().count == 3
    assert summary(eval_range="801-900").count == 2
    with pytest.raises(BadData, match="900"):
        summary(eval_range="900-901")
    with pytest.raises(BadSetting, match="--eval-range is such as 801-900, not '9-3'"):
        EvaluateConfig(dataset=str(val), eval_range="9-3")
