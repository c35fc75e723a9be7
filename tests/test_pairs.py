"""Pictures with references to train on: found in folders, and made from single photos."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from refsr_cli.data.pair_stream import PairStream
from refsr_cli.data.pairs import Pair, PairWindows, find_pairs, made_view
from refsr_cli.errors import BadData
from refsr_cli.images import read_rgb8
from refsr_cli.packaged import packaged

KODAK = sorted((packaged("examples/images") / "kodak").glob("*.png"))


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / name)


def names(pairs: list[Pair]) -> list[tuple[str, ...]]:
    return [(pair.target.name, *(path.name for path in pair.references)) for pair in pairs]


def test_cufeds_layout(tmp_path: Path) -> None:
    put(tmp_path, "input/b.png", "input/a.png", "input/alone.png", "ref/a.jpg", "ref/b.png", "ref/other.png")
    assert names(find_pairs(tmp_path)) == [("a.png", "a.jpg"), ("b.png", "b.png")]


def test_cufed5s_layout(tmp_path: Path) -> None:
    put(tmp_path, "001_0.png", "001_1.png", "001_2.png", "002_0.png", "002_1.png", "003_0.png")
    assert names(find_pairs(tmp_path)) == [("001_0.png", "001_1.png", "001_2.png"), ("002_0.png", "002_1.png")]


def test_folders_of_views(tmp_path: Path) -> None:
    put(tmp_path, "house/1.png", "house/2.png", "house/3.png", "tree/x.png", "alone/y.png", "tree/z.png")
    assert names(find_pairs(tmp_path)) == [
        ("1.png", "2.png", "3.png"),
        ("2.png", "1.png", "3.png"),
        ("3.png", "2.png", "1.png"),
        ("x.png", "z.png"),
        ("z.png", "x.png"),
    ]


def test_no_layout(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png")
    with pytest.raises(BadData, match="holds no pairs"):
        find_pairs(tmp_path)
    with pytest.raises(BadData, match="not a folder"):
        find_pairs(tmp_path / "nowhere")


def test_windows_are_the_same_whoever_asks() -> None:
    pairs = [Pair(KODAK[0], (KODAK[1],))]
    one, other = (PairWindows(KODAK, pairs, 64, 0.4, seed=3) for _ in range(2))
    for number in (7, 2, 5):
        window, references, _ = one[number]
        again, references_again, _ = other[number]
        assert window.shape == (3, 64, 64) and torch.equal(window, again)
        assert len(references) == len(references_again) >= 1
        assert all(torch.equal(a, b) for a, b in zip(references, references_again, strict=True))
    assert not torch.equal(PairWindows(KODAK, pairs, 64, 0.4, seed=4)[7][0], one[7][0])


def test_real_pairs_bring_their_own_references() -> None:
    windows = PairWindows([], [Pair(KODAK[0], (KODAK[1],))], 64, foreign=0.0, seed=0)
    window, references, _ = windows[0]
    assert len(references) == 1 and torch.equal(references[0], read_rgb8(KODAK[1]))
    photo = read_rgb8(KODAK[0])
    places = photo.unfold(1, 64, 1).unfold(2, 64, 1)[0].flatten(0, 1)
    assert (places == window[0]).flatten(1).all(1).any(), "a window is a part of the picture"


def test_pictures_smaller_than_a_window(tmp_path: Path) -> None:
    put(tmp_path, "small.png")
    with pytest.raises(BadData, match="30x20, smaller than a window of 64"):
        PairWindows([tmp_path / "small.png"], [], 64, 0.0, 0)[0]
    with pytest.raises(BadData, match="no photos and no pairs"):
        PairWindows([], [], 64, 0.0, 0)


def test_some_made_views_are_the_photo_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved by whole pixels: every pixel of such a view is one of the photo, unchanged."""
    monkeypatch.setattr("refsr_cli.data.pairs._COPIES", 1.0)
    photo = read_rgb8(KODAK[0])
    windows = photo.unfold(1, 60, 1).unfold(2, 60, 1)[..., ::59, ::59]  # the corners of every window
    exact = 0
    for seed in range(16):
        view = made_view(photo, 200, 300, 48, torch.Generator().manual_seed(seed))
        assert view.shape == (3, 60, 60) and view.dtype == torch.uint8
        for turned in (view.rot90(turns, (1, 2)) for turns in range(4)):
            corners = turned[:, ::59, ::59].view(3, 1, 1, 2, 2)
            for top, left in (windows == corners).all(0).all(-1).all(-1).nonzero().tolist():
                exact += bool(torch.equal(photo[:, top : top + 60, left : left + 60], turned))
    assert exact >= 3
    corner = made_view(photo, 0, photo.shape[2] - 48, 48, torch.Generator().manual_seed(1))
    assert corner.shape == (3, 60, 60), "also where the photo ends"


def test_a_made_view_shows_the_same_scene() -> None:
    """Where nothing is changed but the place, the view is found in the photo again: mean colours agree."""
    photo = read_rgb8(KODAK[0])
    near, far = [], []
    for seed in range(12):
        view = made_view(photo, 200, 300, 96, torch.Generator().manual_seed(seed)).float()
        assert view.shape[0] == 3 and view.shape[1] == view.shape[2] == 120
        window = photo[:, 200:296, 300:396].float()
        shown = view.std((1, 2)).mean() / window.std((1, 2)).mean()
        near.append(float(shown))
        far.append(float((view.mean((1, 2)) - window.mean((1, 2))).abs().mean()))
    assert 0.4 < float(np.median(near)) < 1.6, "contrast is about that of the scene"
    assert float(np.median(far)) < 50, "and so are its colours"


def test_sets_and_views_in_one_folder(tmp_path):
    """Pictures that lie in the folder itself are a set in CUFED5's layout or nothing; those in folders are views,
    whatever their names end in."""
    put(tmp_path, "a_0.png", "a_1.png", "b_0.png", "lonely.png", "other/only.png")
    put(tmp_path, "scene/IMG_0.png", "scene/IMG_1.png", "scene/IMG_2.png")
    found = {p.target.relative_to(tmp_path).as_posix(): len(p.references) for p in find_pairs(tmp_path)}
    assert found == {"a_0.png": 1, "scene/IMG_0.png": 2, "scene/IMG_1.png": 2, "scene/IMG_2.png": 2}
    for path in [*tmp_path.glob("a_*"), *tmp_path.glob("scene/*")]:
        path.unlink()
    with pytest.raises(BadData, match="holds no pairs"):
        find_pairs(tmp_path)


def test_references_begin_as_the_picture_itself():
    """With `ease` the first views lie over the window, but for light, noise and blur; the later they come, the less."""
    windows = PairWindows(KODAK, [Pair(KODAK[0], (KODAK[1],))], 64, 0.0, 0, ease=1000)

    def likeness(number: int) -> float:
        window, references, _ = windows[number]
        first = (references[0].shape[1] - 64) // 2
        centre = references[0][:, first : first + 64, first : first + 64].float()
        return float(torch.corrcoef(torch.stack([window.float().flatten(), centre.flatten()]))[0, 1])

    early, late = ([likeness(number) for number in range(first, first + 24)] for first in (0, 2000))
    assert sorted(early)[len(early) // 2] > 0.95 > 0.8 > sorted(late)[len(late) // 2]
    assert all(torch.equal(a, b) for a, b in zip(windows[5][1], windows[5][1], strict=True))
    far = PairWindows(KODAK, [Pair(KODAK[0], (KODAK[1],))], 64, 0.0, 0)
    assert all(torch.equal(a, b) for a, b in zip(windows[1500][1], far[1500][1], strict=True))


def test_a_pairs_reference_is_shown_where_the_window_is(tmp_path):
    """The same picture twice, larger than a window: what is laid over a window is what is in it."""
    for folder in ("input", "ref"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(KODAK[0].read_bytes())
    windows = PairWindows([], find_pairs(tmp_path), 64, 0.0, 0)
    stream = PairStream(windows, 64, torch.device("cpu"), batch=6, part=slice(None), workers=0)
    shown, references = stream.draw(torch.Generator().manual_seed(0))
    assert torch.equal(shown, references)
