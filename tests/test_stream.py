"""Photos read as they are needed: the same crops whoever reads them, folders and LMDB files, what cannot be read."""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from refsr_cli.config import PrepareConfig, TrainConfig, resumed
from refsr_cli.data.benchmarks import trial_photos
from refsr_cli.data.degrade import degrade_bicubic
from refsr_cli.data.lmdb import LmdbPhotos, write_lmdb
from refsr_cli.data.photos import PhotoSet
from refsr_cli.data.stream import MARGIN, Files, PhotoStream
from refsr_cli.errors import BadData, BadImage, BadSetting
from refsr_cli.images import read_rgb8
from refsr_cli.packaged import packaged
from refsr_cli.tasks.prepare import prepare
from refsr_cli.tasks.train import train
from refsr_cli.training.records import Started
from refsr_cli.training.run import STATE
from refsr_cli.training.validation import Validation

CPU = torch.device("cpu")


@pytest.fixture
def paths() -> list[Path]:
    return sorted(trial_photos().folder.glob("*.png"))[:2]


def draws(stream: PhotoStream, count: int, scale: int = 2, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.cat([x.flatten() for x in stream.draw(scale, generator)]) for _ in range(count)]


def stream(photos, workers: int = 0, part: slice = slice(None), **settings) -> PhotoStream:
    given = {"scales": [2, 4], "patch": 8, "batch": 4, "candidates": 2, **settings}
    scales, patch = given.pop("scales"), given.pop("patch")
    return PhotoStream(photos, scales, patch, CPU, part=part, workers=workers, **given)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_low_resolution_is_that_of_the_whole_photo(paths, scale):
    """Not turned, so that each crop can be found in its photo."""
    photos = Files(paths)
    its = stream(photos, scales=[scale], candidates=1)
    for number in range(6):
        window, failed = its._examples[number]
        assert failed == 0
        side = window.shape[-1]
        found = []
        for photo in (photos[index] for index in range(len(photos))):
            corners = (photo[0] == window[0, 0, 0]).nonzero()
            found += [
                (photo, top, left)
                for top, left in corners.tolist()
                if torch.equal(photo[:, top : top + side, left : left + side], window)
            ]
        ((photo, top, left),) = found
        whole = photo[:, top % scale :, left % scale :].float()[None] / 255
        lr = degrade_bicubic(whole[..., : whole.shape[2] // scale * scale, : whole.shape[3] // scale * scale], scale)
        y, x = int(top) // scale + MARGIN, int(left) // scale + MARGIN
        wanted = lr[..., y : y + 8, x : x + 8].mul(255).round()
        around = window.float()[None] / 255
        made = degrade_bicubic(around, scale)[..., MARGIN:-MARGIN, MARGIN:-MARGIN].mul(255).round()
        assert (made - wanted).abs().max() <= 1 and (made != wanted).float().mean() < 0.01


def test_hr_shrinks_to_lr(paths):
    lr, hr = stream(Files(paths)).draw(4, torch.Generator().manual_seed(0))
    assert lr.shape == (4, 3, 8, 8) and hr.shape == (4, 3, 32, 32)
    assert torch.equal(lr, (lr * 255).round() / 255)
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(degrade_bicubic(hr, 4)[inside], lr[inside], rtol=0, atol=1.01 / 255)


def test_whoever_reads_them_the_crops_are_the_same(paths):
    alone = draws(stream(Files(paths)), 3)
    several = draws(stream(Files(paths), workers=2), 3)
    assert all(torch.equal(one, two) for one, two in zip(alone, several, strict=True))
    assert not torch.equal(alone[0], alone[1])
    assert not torch.equal(alone[0], draws(stream(Files(paths), seed=1), 1)[0])


def test_a_stream_goes_on_where_another_stood(paths):
    first = stream(Files(paths))
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        first.draw(2, generator)
    state, where = first.state_dict(), generator.get_state()
    later = first.draw(2, generator)
    second = stream(Files(paths))
    second.load_state_dict(state)
    again = second.draw(2, torch.Generator().set_state(where))
    assert all(torch.equal(one, two) for one, two in zip(later, again, strict=True))


def test_parts_make_up_the_batch(paths):
    whole = stream(Files(paths)).draw(2, torch.Generator().manual_seed(0))
    halves = [
        stream(Files(paths), part=part).draw(2, torch.Generator().manual_seed(0)) for part in (slice(0, 2), slice(2, 4))
    ]
    assert all(torch.equal(torch.cat(parts), one) for parts, one in zip(zip(*halves, strict=True), whole, strict=True))


def test_what_cannot_be_used_is_counted(paths, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nonsense")
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    mixed = stream(Files([*paths, tmp_path / "broken.png", tmp_path / "small.png"]), batch=16)
    draws(mixed, 2)
    assert 0 < mixed.unusable < 200
    with pytest.raises(BadData, match="100 photos in a row cannot be read or are smaller than 64 pixels"):
        draws(stream(Files([tmp_path / "broken.png"])), 1)
    with pytest.raises(BadData, match="no photo"):
        stream(Files([]))


@pytest.fixture
def squares(paths, tmp_path) -> Path:
    path = tmp_path / "photos.lmdb"
    *_, (done, kept, skipped) = write_lmdb(path, paths, side=128, step=100)
    assert (done, skipped) == (2, 0) and kept == len(LmdbPhotos(path))
    return path


def test_squares_cover_the_photos(paths, squares):
    """Every pixel, and the order is that of the photos."""
    held = LmdbPhotos(squares)
    photo = read_rgb8(paths[0])
    covered = torch.zeros(photo.shape[1:], dtype=torch.bool)
    tops, lefts = ([*range(0, size - 128, 100), size - 128] for size in photo.shape[1:])
    for number, (top, left) in enumerate((top, left) for top in tops for left in lefts):
        assert torch.equal(held[number], photo[:, top : top + 128, left : left + 128])
        covered[top : top + 128, left : left + 128] = True
    assert covered.all()
    there = pickle.loads(pickle.dumps(held))  # as another process gets it
    assert torch.equal(there[1], held[1])


def test_files_of_other_tools_are_read_too(tmp_path, paths):
    """Any keys, whose values are encoded images."""
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "theirs.lmdb"), map_size=2**26) as opened, opened.begin(write=True) as transaction:
        transaction.put(b"0001_s001", paths[0].read_bytes())
        transaction.put(b"broken", b"nonsense")
    held = LmdbPhotos(tmp_path / "theirs.lmdb")
    assert len(held) == 2 and torch.equal(held[0], read_rgb8(paths[0]))
    with pytest.raises(BadImage, match=r"theirs\.lmdb: broken is not an image"):
        held[1]


@pytest.mark.parametrize("part", [0.1, 0.5, 0.97])
def test_an_lmdb_file_that_was_cut_is_refused(tmp_path, part):
    """Not read, which would end the process by SIGBUS."""
    pytest.importorskip("lmdb")
    path = tmp_path / "photos.lmdb"
    list(write_lmdb(path, sorted(trial_photos().folder.glob("*.png"))[:1], side=128, step=128))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(BadData, match=r"photos\.lmdb is cut short: [\d,]+ of [\d,]+ bytes; copy it again"):
        LmdbPhotos(path)


def test_files_that_are_no_lmdb(tmp_path):
    (tmp_path / "a.lmdb").write_bytes(b"nonsense" * 1000)
    with pytest.raises(BadData, match="no LMDB file that can be read"):
        LmdbPhotos(tmp_path / "a.lmdb")
    with pytest.raises(BadData, match="refsr prepare"):
        LmdbPhotos(tmp_path / "b.lmdb")


def test_preparing(paths, tmp_path):
    folder = tmp_path / "DIV2K_train_HR"
    folder.mkdir()
    for number in (1, 2, 801):
        (folder / f"{number:04d}.png").write_bytes(paths[0].read_bytes())
    (folder / "0003.png").write_bytes(b"nonsense")
    (tmp_path / "DIV2K_valid_HR").mkdir()
    (tmp_path / "DIV2K_valid_HR/0005.png").write_bytes(paths[0].read_bytes())  # not to learn from
    config = PrepareConfig(data=tmp_path, output=tmp_path / "out.lmdb", side=256, step=256, data_range="1-800")
    *_, last = prepare(config)
    assert (last.done, last.count, last.skipped) == (3, 3, 1) and last.kept == 2 * 2 * 3
    with pytest.raises(BadSetting, match="--overwrite"):
        list(prepare(config))
    with pytest.raises(BadSetting, match=r"end in \.lmdb"):
        PrepareConfig(data=folder, output=tmp_path / "out")
    with pytest.raises(BadSetting, match="1-800/801-900, not '800-1'"):
        PrepareConfig(data=folder, output=tmp_path / "o.lmdb", data_range="800-1")
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(BadData, match="none of the photos"):
        list(prepare(PrepareConfig(data=folder, output=tmp_path / "none.lmdb")))
    assert not list(tmp_path.glob("*none*"))


def training(data: Path | None, out: Path, **changes) -> TrainConfig:
    given = {"model": "mdsr-baseline", "numbers": ("blocks=1",), "data": data, "out": out, "steps": 4, "batch": 2}
    given |= {"patch": 8, "device": "cpu", "validate_every": 100, "log_every": 1, "workers": 0, "precision": "fp32"}
    given["val"] = str(packaged("examples/images") / "flowerpot/LR")
    return TrainConfig(**{**given, **changes})


def test_trained_from_a_stream_and_resumed(squares, paths, tmp_path):
    """From an LMDB file, and from a folder that is streamed; a training that was cut in two ends the same."""
    for name, data, how in (("lmdb", squares, {}), ("folder", trial_photos().folder, {"stream": True})):
        straight, broken = tmp_path / f"{name}1", tmp_path / f"{name}2"
        list(train(training(data, straight, **how)))
        list(train(training(data, broken, steps=2, **how)))
        list(train(resumed(broken, {"steps": 4})))
        one, two = (torch.load(folder / STATE, weights_only=True)["model"] for folder in (straight, broken))
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_reading_processes_end_with_a_killed_training(tmp_path):
    """Also those that wait for somebody to take what they have read."""
    code = (
        "import sys, torch\n"
        "from refsr_cli.data.stream import Files, PhotoStream\n"
        "from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        "    photos = Files(sorted(Path(sys.argv[1]).glob('*.png')))\n"
        "    stream = PhotoStream(photos, [2], 48, torch.device('cpu'), batch=16, workers=2)\n"
        "    stream.draw(2, torch.Generator())\n"
        "    print('reading', *(worker.pid for worker in stream._loading._workers), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    (tmp_path / "run.py").write_text(code)
    command = [sys.executable, str(tmp_path / "run.py"), str(trial_photos().folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as training:
        pids = [int(word) for word in training.stdout.readline().split()[1:]]
        assert len(pids) == 2
        training.kill()
    deadline = time.monotonic() + 30
    while any(_is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_is_alive(pid) for pid in pids)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2] if Path(f"/proc/{pid}").exists() else True


def test_what_does_not_fit_into_memory_is_streamed(paths, tmp_path, monkeypatch):
    """And what could not be used is said in the end."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "1.png").write_bytes(paths[0].read_bytes())
    with Image.open(paths[0]) as photo:
        width, height = photo.size
    (folder / "2.png").write_bytes(b"nonsense")
    monkeypatch.setattr("refsr_cli.training.photos.MOST_BYTES", 3 * width * height)
    kept = list(train(training(folder, tmp_path / "kept")))
    assert (kept[0].photos, kept[0].skipped, kept[-1].unusable) == (1, 1, 0)
    monkeypatch.setattr("refsr_cli.training.photos.MOST_BYTES", 3 * width * height - 1)
    streamed = list(train(training(folder, tmp_path / "streamed", batch=8)))
    assert (streamed[0].photos, streamed[0].skipped) == (2, 0) and streamed[-1].unusable > 0


def test_div2k_as_it_is_published(paths, tmp_path):
    """Its folders, its ranges, and low-resolution images as files: here ones that can be told from made ones."""
    root = tmp_path / "DIV2K"
    for number, path in ((1, paths[0]), (2, paths[1]), (900, paths[1])):
        photo = Image.open(path).convert("RGB").crop((0, 0, 240, 240))
        (root / "DIV2K_train_HR").mkdir(parents=True, exist_ok=True)
        photo.save(root / f"DIV2K_train_HR/{number:04d}.png")
        for scale in (2, 3, 4):
            small = root / f"DIV2K_train_LR_bicubic/X{scale}/{number:04d}x{scale}.png"
            small.parent.mkdir(parents=True, exist_ok=True)
            photo.resize((240 // scale, 240 // scale), Image.Resampling.NEAREST).save(small)
    lr_dir = root / "DIV2K_train_LR_bicubic"
    (root / "DIV2K_valid_HR").mkdir()
    for number in (801, 802):
        Image.open(paths[0]).convert("RGB").crop((0, 0, 64, 64)).save(root / f"DIV2K_valid_HR/{number:04d}.png")
    division = {"data_range": "1-800/802-900", "val": None}
    records = list(train(training(root, tmp_path / "run", lr_dir=lr_dir, **division)))
    assert isinstance(records[0], Started) and records[0].photos == 2
    assert {(r.dataset, r.protocol) for r in records if isinstance(r, Validation)} == {("DIV2K", "ntire")}
    with Image.open(tmp_path / "run/crops/000004_x4.png") as picture:
        assert picture.size == (3 * 68, 68), "one image is within the range"
    (started, *rest) = train(training(None, tmp_path / "found", data_root=tmp_path, **division))
    assert not started.trial and started.photos == 2, "it is found under the data root"
    assert {record.dataset for record in rest if isinstance(record, Validation)} == {"DIV2K"}
    with pytest.raises(BadData, match="number from 5 to 9"):
        list(train(training(root, tmp_path / "none", data_range="5-9")))
    (lr_dir / "X4/0002x4.png").unlink()
    with pytest.raises(BadData, match=r"no low-resolution image for 0002\.png"):
        list(train(training(root, tmp_path / "missing", lr_dir=lr_dir, data_range="1-800")))
    with pytest.raises(BadSetting, match="--lr-dir"):
        list(train(training(root, tmp_path / "streamed", lr_dir=lr_dir, stream=True)))


def test_given_low_resolution_is_used(paths):
    photo = read_rgb8(paths[0])[:, :96, :96]
    lr = torch.arange(48 * 48, dtype=torch.int64).remainder(251).to(torch.uint8).view(1, 48, 48).expand(3, -1, -1)
    small, large = PhotoSet([photo], [2], 48, CPU, [{2: lr}]).batch(8, 2, torch.Generator().manual_seed(0))
    assert small.mul(255).round().to(torch.uint8).unique().numel() == 251 and large.shape == (8, 3, 96, 96)
    with pytest.raises(BadData, match="that is not scale 2"):
        PhotoSet([photo], [2], 8, CPU, [{2: lr[:, :20, :20]}])
