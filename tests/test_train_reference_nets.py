"""Training nets that need references: what they are shown, what they are told, and that they go on as they were."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from refsr_cli.cli import app
from refsr_cli.config import TrainConfig, resumed
from refsr_cli.data.benchmarks import trial_photos
from refsr_cli.data.pair_stream import PairStream
from refsr_cli.data.pairs import Pair, PairWindows, Window
from refsr_cli.errors import BadSetting
from refsr_cli.images import Picture, read_image, write_image
from refsr_cli.models import build, numbers_of
from refsr_cli.packaged import packaged
from refsr_cli.recipes import settings_of
from refsr_cli.tasks.train import train
from refsr_cli.training.optimizers import learning_rate_at, learning_rate_share
from refsr_cli.training.records import Finished, Started, Step
from refsr_cli.training.reference_lessons import homography, seen_from_elsewhere, through
from refsr_cli.training.run import STATE
from refsr_cli.weights.files import load_weights
from refsr_cli.weights.reference_layouts import _C2, _DATSR

CPU = torch.device("cpu")
NUMBERS = {
    "ssen": ("features=8", "extractor_blocks=1", "blocks=1", "groups=2"),
    "c2": ("features=8", "blocks=1", "groups=2", "textures=(4, 6, 8)", "matched=(4, 6, 8)"),
    "datsr": (
        "features=8", "depths=(2,)", "heads=(2,)", "groups=2", "textures=(4, 6, 8)", "matched=(4, 6, 8)",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def val(tmp_path_factory) -> Path:
    """One small picture, with a reference, to be scored."""
    folder = tmp_path_factory.mktemp("val")
    photo = read_image(trial_photos().folder / "kodim08.png").pixels
    for name, top in (("001_0", 100), ("001_1", 110)):
        pixels = np.ascontiguousarray(photo[top : top + 64, 100:164])
        write_image(folder / f"{name}.png", Picture(pixels, None, "png", None, None, None))
    return folder


def settings(name: str, val: Path, out: Path, **changes) -> TrainConfig:
    given = {
        "model": name, "scale": 4, "numbers": NUMBERS[name], "data": trial_photos().folder, "val": str(val),
        "out": out, "steps": 4, "batch": 2, "patch": 16, "log_every": 1, "validate_every": 100, "device": "cpu",
        "precision": "fp32", "workers": 0, "foreign": 0.0, "learning_rate": 1e-3, "schedule": "constant",
    }  # fmt: skip
    return TrainConfig(**{**given, **changes})


@pytest.mark.parametrize("name", NUMBERS)
def test_restoring_is_learned_and_resumed(name, val, tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    records = list(train(settings(name, val, straight)))
    assert isinstance(records[0], Started) and isinstance(records[-1], Finished)
    list(train(settings(name, val, broken, steps=2)))
    list(train(resumed(broken, {"steps": 4})))
    one, two = (torch.load(folder / STATE, weights_only=True)["model"] for folder in (straight, broken))
    assert all(torch.equal(one[key], two[key]) for key in one)
    fresh = build(name, 4, load_weights(straight / "model.safetensors").model.config.__dict__)
    kept = [key for key, leaf in fresh.named_parameters() if not leaf.requires_grad]
    assert all(key.startswith(("correspondence.", "restoration.content.")) for key in kept)


@pytest.mark.parametrize("name", ["ssen", "c2"])  # so small a DATSR takes hundreds of steps
def test_restoring_comes_nearer_to_the_truth(name, val, tmp_path):
    one = tmp_path / "one"  # a single window, so that losses can be compared
    one.mkdir()
    write_image(one / "a.png", read_image(val / "001_0.png"))
    config = settings(name, val, one / "run", data=one, steps=50)
    losses = [record.loss for record in train(config) if isinstance(record, Step)]
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:8])


def test_places_are_learned_then_used(val, tmp_path):
    """The teacher, the student that is taught by it, and the net that restores: each learns its part alone."""
    teacher, student, net = (tmp_path / name for name in ("teacher", "student", "net"))
    records = list(train(settings("c2", val, teacher, stage="teacher", steps=3)))
    sharp = teacher / "model.safetensors"
    begun = load_weights(sharp).model.state_dict()
    assert {tuple(record.terms) for record in records if isinstance(record, Step)} == {("margin",)}
    told = {
        "stage": "match",
        "teacher": str(teacher / "model.safetensors"),
        "init_from": str(teacher / "model.safetensors"),
    }
    records = list(train(settings("c2", val, student, steps=3, **told)))
    assert {tuple(record.terms) for record in records if isinstance(record, Step)} == {("margin", "taught")}
    taught = load_weights(student / "model.safetensors").model.state_dict()
    changed = {key.partition(".")[0] for key in begun if not torch.equal(begun[key], taught[key])}
    assert changed == {"correspondence"}
    list(train(settings("c2", val, net, steps=3, init_from=str(student / "model.safetensors"))))
    restored = load_weights(net / "model.safetensors").model.state_dict()
    changed = {key.partition(".")[0] for key in begun if not torch.equal(restored[key], taught[key])}
    assert changed == {"restoration", "stem"}


def test_features_learn_to_find_places(val, tmp_path):
    """After some steps the right place is nearer than the likest wrong one more often than before."""
    config = settings("c2", val, tmp_path / "run", stage="teacher", steps=60, batch=2, patch=24)
    losses = [record.loss for record in train(config) if isinstance(record, Step)]
    assert np.mean(losses[-10:]) < np.mean(losses[:5])


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("ssen", {"stage": "match"}, "match by learned features"),
        ("ssen", {"patch": 12}, "multiple of 8"),
        ("datsr", {"prepared": Path("x")}, "--prepared is for nets that merge"),
    ],
)
def test_what_cannot_be(name, changes, said, val, tmp_path):
    with pytest.raises(BadSetting, match=said):
        list(train(settings(name, val, tmp_path / "run", **changes)))
    assert not (tmp_path / "run").exists()
    with pytest.raises(BadSetting, match="--teacher is for --stage match"):
        settings(name, val, tmp_path / "run", teacher="a.safetensors")
    with pytest.raises(BadSetting, match="--pairs is for nets that take references"):
        other = {**vars(settings("ssen", val, tmp_path / "run")), "model": "edsr-baseline", "numbers": ()}
        list(train(TrainConfig(**{**other, "pairs": val})))


def test_parts_learn_at_their_own_rates(val, tmp_path):
    """A tenth for the offsets of the middle size, a hundredth for the smallest; schedules fall at their marks."""
    list(train(settings("datsr", val, tmp_path / "run", steps=1)))
    state = torch.load(tmp_path / "run" / STATE, weights_only=True)
    assert sorted(group["lr"] for group in state["optimizer"]["param_groups"]) == pytest.approx([1e-5, 1e-4, 1e-3])
    config = TrainConfig(**settings_of("datsr"))
    told = CliRunner().invoke(app, ["train", "--model", "datsr", "--decay-at", "7,x"])
    assert told.exit_code == 2 and "70000,200000" in told.output
    rates = [learning_rate_at(step, config) for step in (0, 72_544, 72_545, 211_039, 211_040)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6])


@pytest.mark.parametrize(("name", "theirs", "slow"), [("c2", _C2, 12), ("datsr", _DATSR, 18)])
def test_weights_learn_as_in_the_code_of_the_authors(name, theirs, slow):
    """That goes by names: 1e-6 where there is `offset` and `small`, 1e-5 where `offset` and `medium`, else 1e-4; the
    VGG that encodes references, and what places are found by, stay as they are."""
    model = build(name, 4)
    rates = {}
    for key, value in model.named_parameters():
        if not value.requires_grad:
            unused = "restoration.content." if name == "datsr" else "stem."  # what the authors make and do not call
            assert key.startswith(("stem.", "correspondence.", unused))
            continue
        published = theirs(key)
        expected = 1e-4
        if "offset" in published:
            expected = 1e-6 if "small" in published else 1e-5 if "medium" in published else 1e-4
        rates[published] = 1e-4 * learning_rate_share(model, key)
        assert rates[published] == pytest.approx(expected), published
    assert sum(rate < 9e-5 for rate in rates.values()) == slow
    assert not any(value.requires_grad for value in model.stem.parameters())


@pytest.mark.parametrize("name", ["c2", "datsr"])
def test_ten_steps_reach_every_weight_that_the_authors_train(name, val, tmp_path):
    """With the recipe's numbers, from random weights: Adam has seen a gradient of all that is learned, and of nothing
    else; what is frozen is as it was."""
    numbers = tuple(its for its in NUMBERS[name] if not its.startswith("textures"))  # VGG's own widths, which stay
    recipe = {**settings_of(name), "batch": 2, "patch": 16, "steps": 10, "numbers": numbers}
    config = settings(name, val, tmp_path / "run", **{key: value for key, value in recipe.items() if key != "model"})
    list(train(config))
    state = torch.load(tmp_path / "run" / STATE, weights_only=True)
    model = build(name, 4, numbers_of(name, numbers))
    learned = [key for key, value in model.named_parameters() if value.requires_grad]
    groups = state["optimizer"]["param_groups"]
    assert sum(len(group["params"]) for group in groups) == len(learned) == len(state["optimizer"]["state"])
    assert all(float(its["exp_avg_sq"].sum()) > 0 for its in state["optimizer"]["state"].values())
    assert all((group["betas"], group["weight_decay"]) == ((0.9, 0.999), 0) for group in groups)
    torch.manual_seed(config.seed)
    begun = build(name, 4, numbers_of(name, numbers)).state_dict()
    moved = {key for key, value in state["model"].items() if not torch.equal(value, begun[key])}
    assert moved == set(learned)


@pytest.mark.parametrize("name", ["ssen", "c2", "c2-teacher", "c2-match", "datsr"])
def test_recipes(name):
    config = TrainConfig(**settings_of(name))
    assert config.patch * config.scale == 160 and config.recipe == name and config.foreign == 0
    assert json.loads(json.dumps(list(config.decay_at))) == list(config.decay_at)


# What is shown


def windows(side: int = 64) -> PairWindows:
    photos = sorted(trial_photos().folder.glob("*.png"))
    view = packaged("examples/images") / "flowerpot"
    pairs = [Pair(view / "HR/flowerpot.png", (view / "ref/1.jpg",))]
    return PairWindows(photos, pairs, side, 0.0, 0)


def test_pairs_are_turned_together_or_apart():
    """The reference of a copy shows the picture; turned apart it does not lie the same way."""

    class Copies(PairWindows):
        def __getitem__(self, number: int) -> Window:
            window = super().__getitem__(number)
            return window._replace(references=[window.pixels], centre=(0.5, 0.5))

    photos = sorted(trial_photos().folder.glob("*.png"))
    copies = Copies(photos, [], 64, 0.0, 0)
    for apart in (False, True):
        stream = PairStream(copies, 64, CPU, batch=8, part=slice(None), workers=0)
        hr, ref = stream.draw(torch.Generator().manual_seed(0), apart=apart)
        same = [torch.equal(one, other) for one, other in zip(hr, ref, strict=True)]
        assert all(same) if not apart else sum(same) < 5
        for one, other in zip(hr, ref, strict=True):
            turned = [x for k in range(4) for x in (other.rot90(k, (1, 2)), other.rot90(k, (1, 2)).flip(2))]
            assert any(torch.equal(one, x) for x in turned)


def test_a_stream_gives_the_same_whoever_makes_it():
    def draws(workers: int, part: slice) -> list[Tensor]:
        stream = PairStream(windows(), 80, CPU, batch=4, part=part, workers=workers)
        generator = torch.Generator().manual_seed(3)
        made = [torch.cat([hr.flatten(1), ref.flatten(1)], 1) for hr, ref in (stream.draw(generator) for _ in range(2))]
        stream.close()
        return made

    alone, together = draws(0, slice(None)), draws(2, slice(None))
    half = draws(0, slice(2, 4))
    for one, two, part in zip(alone, together, half, strict=True):
        assert torch.equal(one, two) and torch.equal(one[2:], part)


def test_homographies():
    """Corners go where they are sent; what is seen from elsewhere is where it is said to be."""
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(3, 4, 2, generator=generator) * 5 + torch.tensor([[0.0, 0], [0, 60], [60, 0], [60, 60]])
    sent = corners + torch.randn(3, 4, 2, generator=generator)
    matrix = homography(corners, sent)
    for sample in range(3):
        torch.testing.assert_close(through(matrix, corners[sample])[sample], sent[sample], rtol=0, atol=1e-3)
    photo = read_image(trial_photos().folder / "kodim23.png").pixels[:160, :160]
    x = torch.from_numpy(np.ascontiguousarray(photo)).permute(2, 0, 1)[None].float() / 255
    x = F.avg_pool2d(F.pad(x, (4,) * 4, mode="reflect"), 9, stride=1)  # smooth, so that reading between pixels is exact
    seen, places = seen_from_elsewhere(x, 4, generator)
    size = places.new_tensor(160.0)
    lookup = ((2 * places + 1) / size - 1).flip(1).permute(0, 2, 3, 1)
    read = F.grid_sample(seen, lookup, align_corners=False)
    middle = F.avg_pool2d(x, 4)
    inside = ((places > 10) & (places < 149)).all(1)[0]
    assert inside.float().mean() > 0.6
    assert (read - middle)[0, :, inside].abs().max() < 0.02
    assert (seen - x).abs().mean() > 0.01
