"""Training a net to merge references: what is prepared, what is learned, what is left alone."""

import math
import shutil
from pathlib import Path

import pytest
import torch

from refsr_cli.config import TrainConfig, resumed
from refsr_cli.data.pairs import PairWindows, find_pairs
from refsr_cli.data.reference_sets import targets_among
from refsr_cli.errors import BadData, BadSetting
from refsr_cli.images import Picture, read_image, write_image
from refsr_cli.models import build
from refsr_cli.packaged import packaged
from refsr_cli.reference.trust import gate
from refsr_cli.tasks.train import train
from refsr_cli.training.group import Group
from refsr_cli.training.lessons import Merging
from refsr_cli.training.offers import OfferSet, Preparing, prepare
from refsr_cli.training.records import Finished, Started, Step
from refsr_cli.training.validation import Validation
from refsr_cli.weights.files import load_weights
from refsr_cli.weights.store import load_model

KODAK = packaged("examples/images") / "kodak"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """Two pictures in CUFED5's layout, each with a view that overlaps it."""
    folder = tmp_path_factory.mktemp("pairs")
    for number, name in enumerate(("kodim08", "kodim05")):
        pixels = read_image(KODAK / f"{name}.png").pixels
        for view, left in enumerate((0, 10)):
            part = pixels[200:280, 200 + left : 280 + left]
            write_image(folder / f"{number:03d}_{view}.png", Picture(part, None, "png", None, None, None))
    return folder


@pytest.fixture(scope="module")
def prepared(pairs, tmp_path_factory) -> Path:
    """What is prepared is the same for every training here, and made once."""
    folder = tmp_path_factory.mktemp("prepared")
    list(train(settings(pairs, folder, tmp_path_factory.mktemp("first") / "run", steps=1)))
    return folder


def samples_in(prepared: Path) -> Path:
    """The folder of the one kind of samples that is in `prepared`."""
    (folder,) = prepared.iterdir()
    return folder


def offers_in(prepared: Path, count: int = 18) -> OfferSet:
    return OfferSet(samples_in(prepared), count, load_model("edsr-baseline", 4).model, torch.device("cpu"))


def settings(pairs: Path, prepared: Path, out: Path, **changes) -> TrainConfig:
    given = {
        "model": "refnet",
        "pairs": pairs,
        "val": str(pairs),
        "prepared": prepared,
        "out": out,
        "samples": 18,
        "foreign": 0.3,
        "workers": 0,
        "patch": 16,
        "steps": 4,
        "batch": 3,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "log_every": 1,
        "validate_every": 4,
        "device": "cpu",
        "precision": "fp32",
    }
    return TrainConfig(**{**given, **changes})


def test_records_and_files(pairs, prepared, tmp_path):
    names = ["000000-000016.safetensors", "000016-000018.safetensors"]
    assert sorted(path.name for path in samples_in(prepared).iterdir()) == names
    records = list(train(settings(pairs, prepared, tmp_path / "run")))
    started = records[0]
    assert isinstance(started, Started) and (started.photos, started.pairs, started.trial) == (0, 2, False)
    assert not any(isinstance(record, Preparing) for record in records), "what is there is not made again"
    steps = [record for record in records if isinstance(record, Step)]
    assert len(steps) == 4 and all(math.isfinite(record.loss) for record in steps)
    (validation,) = [record for record in records if isinstance(record, Validation)]
    assert isinstance(records[-1], Finished)

    trained = load_weights(tmp_path / "run" / "model.safetensors").model
    trunk = load_model("edsr-baseline", 4).model.state_dict()
    assert all(torch.equal(trained.trunk.state_dict()[key], value) for key, value in trunk.items())
    untrained = build("refnet", 4).merger.state_dict()
    assert not all(torch.equal(trained.merger.state_dict()[key], value) for key, value in untrained.items())
    assert validation.psnr > 20 and len(targets_among(sorted(pairs.iterdir()))) == 2


def test_resuming_continues_bit_for_bit(pairs, prepared, tmp_path):
    list(train(settings(pairs, prepared, tmp_path / "straight")))
    broken = train(settings(pairs, prepared, tmp_path / "broken"))
    next(record for record in broken if isinstance(record, Step) and record.step == 2)
    broken.close()
    list(train(resumed(tmp_path / "broken", {})))
    expected, found = (
        torch.load(tmp_path / name / "state.pt", weights_only=True)["model"] for name in ("straight", "broken")
    )
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_what_is_prepared_does_not_depend_on_who_prepares(pairs, prepared, tmp_path):
    windows = PairWindows([], find_pairs(pairs), 64, 0.3, 0)
    records = list(prepare(windows, 18, tmp_path / "again", torch.device("cpu"), workers=2))
    assert [(record.done, record.count) for record in records] == [(16, 18), (18, 18)]
    for path in sorted(samples_in(prepared).iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_training_goes_beyond_the_formula(pairs, prepared, tmp_path):
    """On what it has seen, at least: a step in the right direction, not a proof of quality."""
    list(train(settings(pairs, prepared, tmp_path / "run", steps=60, ema=0.5, batch=8)))
    trained = load_weights(tmp_path / "run" / "model.safetensors").model
    offer, hr = offers_in(prepared).batch(64, torch.Generator().manual_seed(1))
    with torch.no_grad():
        detail, trust = trained.merge(offer)
        ours = (offer.base + trust * detail - hr).abs().mean()
        formula = (offer.base + gate(offer) * offer.detail - hr).abs().mean()
    assert ours < 0.99 * formula < (offer.base - hr).abs().mean()


def test_being_worse_than_without_references_counts_more(prepared):
    offers = offers_in(prepared)
    lesson = Merging(offers, TrainConfig(model="refnet", batch=8), Group(torch.device("cpu")))

    def loss_of(answer) -> float:
        return float(sum(next(lesson.losses(answer, torch.Generator().manual_seed(0), 1e-4)).values()))

    offer, hr = offers.batch(8, torch.Generator().manual_seed(0))
    alone = (offer.base - hr).abs().mean()
    assert loss_of(lambda offer: (offer.detail, torch.zeros_like(offer.variance))) == pytest.approx(float(alone))
    # away from the truth by one level everywhere: the error grows by 1 and the hinge adds half as much again
    step = (offer.base - hr).sign() / 255
    assert loss_of(lambda offer: (step, torch.ones_like(offer.variance))) == pytest.approx(
        float(alone + 1.5 * step.abs().mean()), rel=1e-4
    )


def test_what_is_refused(pairs, prepared, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(BadData, match="no window could be prepared"):
        list(train(settings(pairs, tmp_path / "none", out, patch=60, samples=2)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData, match="holds no"):
        list(train(settings(tmp_path / "empty", prepared, tmp_path / "other")))
    with pytest.raises(BadSetting, match="--foreign is a part between 0 and 1"):
        settings(pairs, prepared, out, foreign=2.0)
    with pytest.raises(BadSetting, match="no linear tail"):
        list(train(settings(pairs, prepared, tmp_path / "folded", fold_tail=True)))
    for path in samples_in(shutil.copytree(prepared, tmp_path / "damaged")).iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(BadData, match=r"000000-000016\.safetensors is damaged.*it is made again"):
        list(train(settings(pairs, tmp_path / "damaged", tmp_path / "third")))


def test_files_that_cannot_be_read_are_named_and_nothing_is_kept_of_them(pairs, prepared, tmp_path):
    broken = shutil.copytree(pairs, tmp_path / "broken")
    for path in broken.glob("*_0.png"):
        path.write_bytes(path.read_bytes()[:200])
    records: list = []
    with pytest.raises(BadData, match="no window could be prepared"):
        records.extend(train(settings(broken, tmp_path / "kept", tmp_path / "run", samples=3, foreign=0.0, val=None)))
    assert not list(samples_in(tmp_path / "kept").iterdir())
    windows = PairWindows([], find_pairs(broken), 64, 0.0, 0)
    (done,) = prepare(windows, 3, tmp_path / "o", torch.device("cpu"), workers=0)
    assert done.skipped == 3 and all("_0.png" in problem for problem in done.problems)


def test_a_reference_that_cannot_be_read_leaves_the_others(pairs, tmp_path):
    more = shutil.copytree(pairs, tmp_path / "more")
    (more / "000_0.png").rename(more / "002_0.png")
    (more / "000_1.png").write_bytes(b"")
    (more / "000_1.png").rename(more / "002_1.png")
    shutil.copy(pairs / "000_1.png", more / "002_2.png")
    found = [pair for pair in find_pairs(more) if pair.target.name == "002_0.png"]
    _, references, _ = PairWindows([], found, 64, 0.0, 0)[0]
    assert len(references) == 1


def test_interrupted_before_the_first_step(pairs, tmp_path):
    """The settings are there at once, and a resumed training begins where none has begun."""
    out = tmp_path / "run"
    records = train(settings(pairs, tmp_path / "kept", out, samples=18, steps=1))
    next(record for record in records if isinstance(record, Preparing))
    records.close()
    again = list(train(resumed(out, {})))
    assert [(record.done, record.count) for record in again if isinstance(record, Preparing)] == [(18, 18)]
    assert isinstance(again[-1], Finished) and again[-1].step == 1


def test_a_set_without_references_shows_nothing_of_what_is_learned(pairs, prepared, tmp_path):
    started = next(train(settings(pairs, prepared, tmp_path / "run", val=None)))
    assert isinstance(started, Started) and "has no references" in str(started.note)
    started = next(train(settings(pairs, prepared, tmp_path / "other")))
    assert isinstance(started, Started) and "has no references" not in str(started.note)


def test_pairs_are_for_nets_that_merge(pairs, tmp_path):
    for option in ({"pairs": pairs}, {"prepared": tmp_path}):
        with pytest.raises(BadSetting, match="edsr-baseline does not"):
            list(train(TrainConfig(model="edsr-baseline", out=tmp_path / "run", device="cpu", **option)))


def test_what_is_prepared_otherwise_is_kept_apart(pairs, prepared, tmp_path):
    """Another window, seed, share or data: nothing of what is there is used, and nothing is lost."""
    shared = shutil.copytree(prepared, tmp_path / "shared")
    (shutil.copytree(pairs, tmp_path / "fewer") / "001_1.png").unlink()
    kinds = [(pairs, {"patch": 12}), (pairs, {"seed": 1}), (pairs, {"foreign": 0.4}), (tmp_path / "fewer", {})]
    for number, (data, change) in enumerate(kinds):
        records = list(train(settings(data, shared, tmp_path / f"run{number}", samples=2, steps=1, **change)))
        assert [record.count for record in records if isinstance(record, Preparing)] == [2]
        assert len(list(shared.iterdir())) == number + 2
    for path in samples_in(prepared).iterdir():
        assert (shared / path.parent.name / path.name).read_bytes() == path.read_bytes()


def test_more_and_fewer_samples(pairs, prepared, tmp_path):
    """Whole files are used again; of what is there no more is learned from than was asked for."""
    shared = shutil.copytree(prepared, tmp_path / "shared")
    more = list(train(settings(pairs, shared, tmp_path / "more", samples=20, steps=1)))
    assert [(record.done, record.count) for record in more if isinstance(record, Preparing)] == [(20, 20)]
    fewer = list(train(settings(pairs, shared, tmp_path / "fewer", samples=16, steps=1)))
    assert not any(isinstance(record, Preparing) for record in fewer)
    counts = [offers_in(shared, count).count for count in (16, 18, 20)]
    assert counts == [16, 18, 20]
