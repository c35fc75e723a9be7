"""Image files against Pillow, OpenCV and tifffile, or against bytes written here by hand."""

import builtins
import io
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from refsr_cli.errors import BadImage, BadSetting, RefsrError
from refsr_cli.images import (
    Picture,
    bleed_color,
    eight_bits,
    read_image,
    read_rgb8,
    reading,
    to_pixels,
    to_tensor,
    write_image,
)
from refsr_cli.layers.resample import upscale

DEPTHS = [np.uint8, np.uint16]
LOSSLESS = [("png", d, c, a) for d in DEPTHS for c in (1, 3) for a in (False, True)]
LOSSLESS += [("tiff", d, c, a) for d in DEPTHS for c in (1, 3) for a in (False, True)]
LOSSLESS += [("bmp", np.uint8, c, False) for c in (1, 3)] + [("webp", np.uint8, 3, a) for a in (False, True)]


def profile(space: str = "sRGB") -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


def grey_profile() -> bytes:
    return profile()[:16] + b"GRAY" + profile()[20:]


def exif_bytes(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x0112] = orientation
    exif[0x010E] = "Caf\u00e9".encode()
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0x829A: 0.01, 0xA002: 5, 0xA003: 7, 0x927C: b"note" * 9}
    exif[0x8825] = {1: "N", 2: (1.0, 2.0, 3.5)}
    return exif.tobytes()


def picture(dtype=np.uint8, channels=3, alpha=False, size=(11, 17), seed=0, **kept) -> Picture:
    rng = np.random.default_rng(seed)
    top = int(np.iinfo(dtype).max) + 1
    pixels = rng.integers(0, top, (*size, channels), dtype=dtype)
    opacity = rng.integers(0, top, size, dtype=dtype) if alpha else None
    return Picture(pixels, opacity, "png", **{"icc": None, "exif": None, "dpi": None, **kept})


def assert_same(actual: Picture, expected: Picture) -> None:
    assert actual.pixels.dtype == expected.pixels.dtype
    np.testing.assert_array_equal(actual.pixels, expected.pixels)
    assert (actual.alpha is None) == (expected.alpha is None)
    if actual.alpha is not None:
        np.testing.assert_array_equal(actual.alpha, expected.alpha)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows: list[bytes], width: int, depth: int, color_type: int, *extra: bytes, after: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, len(rows), depth, color_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = (chunk(b"IHDR", header), *extra, chunk(b"IDAT", body), after, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png16(samples: np.ndarray, *extra: bytes, after: bytes = b"") -> bytes:
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[samples.shape[2]]
    return png([row.astype(">u2").tobytes() for row in samples], samples.shape[1], 16, kind, *extra, after=after)


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def stored(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# Round trips


@pytest.mark.parametrize(("format", "dtype", "channels", "alpha"), LOSSLESS)
def test_lossless_formats_give_back_every_sample(tmp_path, format, dtype, channels, alpha):
    before = picture(dtype, channels, alpha)
    path = tmp_path / f"a.{format}"
    write_image(path, before, quality=100)
    after = read_image(path)
    assert_same(after, before)
    assert after.format == format
    assert (after.height, after.width, after.peak) == (11, 17, np.iinfo(dtype).max)


@pytest.mark.parametrize(("channels", "alpha"), [(1, False), (1, True), (3, False), (3, True)])
def test_16_bit_png_is_what_opencv_reads(tmp_path, channels, alpha):
    before = picture(np.uint16, channels, alpha)
    write_image(tmp_path / "a.png", before)
    read = np.atleast_3d(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED))
    colors = read[..., :3][..., ::-1]
    np.testing.assert_array_equal(colors, np.broadcast_to(before.pixels, colors.shape))
    if alpha:
        np.testing.assert_array_equal(read[..., 3], before.alpha)


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize(("channels", "alpha"), [(1, False), (1, True), (3, False), (3, True)])
def test_tiff_is_what_tifffile_reads(tmp_path, dtype, channels, alpha):
    before = picture(dtype, channels, alpha)
    write_image(tmp_path / "a.tif", before)
    samples = before.pixels if not alpha else np.dstack((before.pixels, before.alpha))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), samples.squeeze())
    if dtype == np.uint8:
        with Image.open(tmp_path / "a.tif") as image:
            np.testing.assert_array_equal(np.asarray(image), samples.squeeze())


def test_tall_files_are_written_in_several_strips(tmp_path, monkeypatch):
    monkeypatch.setattr("refsr_cli.images.strips._STRIP", 300)
    before = picture(np.uint16, 3, True, size=(23, 17), exif=exif_bytes())
    for name in ("a.png", "a.tif"):
        write_image(tmp_path / name, before)
        assert_same(read_image(tmp_path / name), before)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif")[..., :3], before.pixels)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_any_shape(tmp_path, name, dtype, size):
    before = picture(dtype, 3, True, size=size)
    write_image(tmp_path / name, before)
    assert_same(read_image(tmp_path / name), before)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_lossy_formats_stay_close(tmp_path, name, shared_data):
    before = read_image(sorted((shared_data / "eval/Set5").glob("*.png"))[0])
    write_image(tmp_path / name, before)
    error = np.abs(read_image(tmp_path / name).pixels.astype(float) - before.pixels)
    assert 0 < error.mean() < 3
    write_image(tmp_path / f"low{name}", before, quality=20)
    assert (tmp_path / f"low{name}").stat().st_size < (tmp_path / name).stat().st_size / 2


def test_jpeg_keeps_full_colour_resolution_and_grey(tmp_path):
    write_image(tmp_path / "a.jpg", picture())
    with Image.open(tmp_path / "a.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
    write_image(tmp_path / "g.jpg", picture(channels=1))
    assert read_image(tmp_path / "g.jpg").pixels.shape == (11, 17, 1)


def test_transparent_parts_become_white_where_there_is_no_alpha(tmp_path):
    before = Picture(np.zeros((4, 6, 3), np.uint16), np.zeros((4, 6), np.uint16), "png", None, None, None)
    before.alpha[:, :3] = 65535
    write_image(tmp_path / "a.bmp", before)
    after = read_image(tmp_path / "a.bmp")
    assert after.alpha is None
    assert (after.pixels[:, :3] == 0).all() and (after.pixels[:, 3:] == 255).all()


def test_16_bits_are_rounded_to_8_where_the_format_has_8(tmp_path):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    write_image(tmp_path / "a.bmp", Picture(ramp, None, "png", None, None, None))
    np.testing.assert_array_equal(read_image(tmp_path / "a.bmp").pixels, np.rint(ramp / 257))


# Depth and colour kinds


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_dark_16_bit_image_stays_16_bit(tmp_path, suffix, channels):
    dark = np.full((4, 5, channels), 3, np.uint16)
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), dark)
    after = read_image(tmp_path / f"a.{suffix}").pixels
    assert after.dtype == np.uint16
    np.testing.assert_array_equal(after, dark)


def test_16_bit_colour_keys_become_alpha(tmp_path):
    for channels in (1, 3):
        samples = picture(np.uint16, channels).pixels
        key = chunk(b"tRNS", samples[2, 3].astype(">u2").tobytes())
        after = read_image(stored(tmp_path / "a.png", png16(samples, key)))
        np.testing.assert_array_equal(after.pixels, samples)
        assert after.alpha[2, 3] == 0 and (after.alpha == 0).sum() == 1 and after.alpha.max() == 65535


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_low_depth_grey_becomes_8_bit_grey_and_its_key_alpha(tmp_path, depth):
    levels = 2**depth
    row = np.arange(256 if depth == 8 else levels, dtype=np.uint8)
    bits = np.unpackbits(row[:, None], axis=1)[:, 8 - depth :].reshape(-1)
    data = png([np.packbits(bits).tobytes()], len(row), depth, 0, chunk(b"tRNS", struct.pack(">H", 1)))
    after = read_image(stored(tmp_path / "a.png", data))
    np.testing.assert_array_equal(after.pixels[0, :, 0], row * (255 // (levels - 1)))
    np.testing.assert_array_equal(after.alpha[0], np.where(row == 1, 0, 255))


def test_palettes_become_rgb(tmp_path):
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4), "L").convert("P")
    image.putpalette([value for entry in range(12) for value in (entry * 20, 255 - entry, 7)])
    plain = read_image(saved(image, tmp_path / "p.png"))
    np.testing.assert_array_equal(plain.pixels, np.asarray(image.convert("RGB")))
    assert plain.alpha is None
    clear = read_image(saved(image, tmp_path / "t.png", transparency=bytes([0, 100])))
    np.testing.assert_array_equal(clear.pixels, plain.pixels)
    assert clear.alpha.reshape(-1).tolist() == [0, 100] + [255] * 10


def test_pillows_modes(tmp_path):
    grey_alpha = np.random.default_rng(1).integers(0, 256, (3, 4, 2), dtype=np.uint8)
    after = read_image(saved(Image.fromarray(grey_alpha), tmp_path / "la.png"))
    np.testing.assert_array_equal(after.pixels[..., 0], grey_alpha[..., 0])
    np.testing.assert_array_equal(after.alpha, grey_alpha[..., 1])
    bits = np.random.default_rng(1).integers(0, 2, (3, 9), dtype=np.uint8) * 255
    for name in ("one.png", "one.tif", "one.bmp"):
        pixels = read_image(saved(Image.fromarray(bits).convert("1"), tmp_path / name)).pixels
        np.testing.assert_array_equal(pixels[..., 0], bits)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite", "rgb"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}])
def test_16_bit_tiff_kinds(tmp_path, photometric, options):
    samples = picture(np.uint16, 3 if photometric == "rgb" else 1).pixels
    tifffile.imwrite(tmp_path / "a.tif", samples.squeeze(), photometric=photometric, **options)
    expected = 65535 - samples if photometric == "miniswhite" else samples
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_tiff_with_lzw_as_opencv_writes_it(tmp_path, channels):
    samples = picture(np.uint16, channels).pixels
    cv2.imwrite(str(tmp_path / "a.tif"), samples[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, samples)


def test_16_bit_tiff_planes_alpha_and_big_files(tmp_path):
    samples = picture(np.uint16, 3, True)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.moveaxis(samples.pixels, 2, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(path).pixels, samples.pixels)
    tifffile.imwrite(path, samples.pixels, photometric="rgb", bigtiff=True)
    np.testing.assert_array_equal(read_image(path).pixels, samples.pixels)
    both = np.dstack((samples.pixels, samples.alpha))
    tifffile.imwrite(path, both, photometric="rgb", extrasamples=["unassalpha"])
    assert_same(read_image(path), samples)
    tifffile.imwrite(path, both[..., 2:], photometric="minisblack", extrasamples=["unassalpha"], planarconfig="contig")
    assert_same(read_image(path), replace(samples, pixels=samples.pixels[..., 2:]))
    half = np.full((2, 3, 4), 20000, np.uint16)
    half[..., 3] = 40000
    half[0, 0] = 0
    tifffile.imwrite(path, half, photometric="rgb", extrasamples=["assocalpha"])
    after = read_image(path)
    assert (after.pixels.reshape(-1, 3)[1:] == round(20000 * 65535 / 40000)).all() and (after.pixels[0, 0] == 0).all()


def test_premultiplied_8_bit_tiff_becomes_straight(tmp_path):
    half = np.full((2, 3, 2), 50, np.uint8)
    half[..., 1] = 100
    tifffile.imwrite(tmp_path / "a.tif", half, photometric="minisblack", planarconfig="contig", extrasamples=[1])
    after = read_image(tmp_path / "a.tif")
    assert abs(int(after.pixels[0, 0, 0]) - 127) <= 1 and after.alpha[0, 0] == 100


def test_cmyk_without_profile_is_pillows_conversion(tmp_path):
    image = Image.new("CMYK", (8, 8), (10, 200, 30, 40))
    after = read_image(saved(image, tmp_path / "a.tif"))
    np.testing.assert_array_equal(after.pixels, np.asarray(image.convert("RGB")))
    jpeg = read_image(saved(image, tmp_path / "a.jpg", quality=100, subsampling=0)).pixels.astype(int)
    assert np.abs(jpeg - after.pixels).max() <= 3
    broken = saved(image, tmp_path / "b.tif", icc_profile=b"no profile")
    assert_same(read_image(broken), after)


def cmyk_profile() -> bytes:
    """A made-up printer: two grid points per ink, each ink darkens and tints on its own."""
    inks = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), -1).reshape(16, 4)
    lightness = 250 * (1 - inks @ [0.2, 0.25, 0.05, 0.4])
    lab = np.stack((lightness, 128 + inks @ [-30, 60, -10, 0], 128 + inks @ [-40, -5, 70, 0]), -1).astype(np.uint8)
    straight = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).reshape(-1))
    table += straight * 4 + lab.tobytes() + straight * 3
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"made\0" + bytes(78)
    name += bytes(-len(name) % 4)
    parts, directory, offset = b"", struct.pack(">I", 3), 128 + 4 + 3 * 12
    for tag, body in ((b"desc", name), (b"wtpt", white), (b"A2B0", table + bytes(-len(table) % 4))):
        directory += tag + struct.pack(">II", offset + len(parts), len(body))
        parts += body
    header = struct.pack(">I", 128 + len(directory) + len(parts)) + bytes(4) + b"\x02\x10\0\0prtrCMYKLab "
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + directory + parts


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_cmyk_with_profile_is_converted_by_it(tmp_path, name):
    image = Image.new("CMYK", (8, 8), (10, 200, 30, 40))
    path = saved(image, tmp_path / name, icc_profile=cmyk_profile())
    after = read_image(path)
    source = ImageCms.ImageCmsProfile(io.BytesIO(cmyk_profile()))
    with Image.open(path) as opened:
        expected = ImageCms.profileToProfile(opened, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        naive = np.asarray(opened.convert("RGB"))
    np.testing.assert_array_equal(after.pixels, np.asarray(expected))
    assert np.abs(after.pixels.astype(int) - naive).max() > 10
    assert after.icc[16:20] == b"RGB " and ImageCms.getProfileName(io.BytesIO(after.icc)).startswith("sRGB")


def test_lab_becomes_srgb(tmp_path):
    lab = np.array([[[255, 0, 0], [0, 0, 0], [138, 80, 67]]], np.uint8)  # white, black, red
    tifffile.imwrite(tmp_path / "a.tif", lab, photometric="cielab")
    after = read_image(tmp_path / "a.tif")
    error = np.abs(after.pixels[0].astype(int) - [[255, 255, 255], [0, 0, 0], [255, 0, 0]])
    assert error.max() <= 12
    assert after.icc == read_image(tmp_path / "a.tif").icc and after.icc[16:20] == b"RGB "


# What travels along


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("format", ["png", "jpg", "webp", "tiff"])
def test_profile_exif_and_resolution_are_kept(tmp_path, format, dtype):
    before = picture(dtype, size=(30, 40), icc=profile(), exif=exif_bytes(), dpi=(300.0, 150.0))
    path = tmp_path / f"a.{format}"
    write_image(path, before)
    after = read_image(path)
    assert after.icc == before.icc
    assert after.dpi == pytest.approx(before.dpi, abs=0.02)
    with Image.open(path) as image:
        exif = image.getexif()
        assert exif[0x010F] == "Maker" and exif[0x0112] == 1
        assert exif[0x010E].encode("latin-1").decode() == "Caf\u00e9"
        details = exif.get_ifd(0x8769)
        assert details[0x9003] == "2020:01:02 03:04:05" and float(details[0x829A]) == 0.01
        assert (details[0xA002], details[0xA003]) == (40, 30)
        assert details[0x927C] == b"note" * 9
        assert exif.get_ifd(0x8825)[2] == (1.0, 2.0, 3.5)
        assert image.info.get("icc_profile", before.icc) == before.icc
    again = tmp_path / f"b.{format}"
    write_image(again, after)
    if format in ("png", "tiff"):
        assert again.read_bytes() == path.read_bytes()


def test_resolution_alone_adds_no_exif_but_where_it_must(tmp_path):
    before = picture(dpi=(72.0, 72.0))
    for name in ("a.png", "a.jpg", "a.bmp", "a.tif", "a.webp"):
        write_image(tmp_path / name, before)
        after = read_image(tmp_path / name)
        assert after.dpi == pytest.approx((72, 72), abs=0.05), name
        with Image.open(tmp_path / name) as image:
            assert bool(image.info.get("exif")) == (name == "a.webp")


def test_a_profile_for_other_channels_is_dropped(tmp_path):
    image = Image.new("L", (4, 4), 9)
    assert read_image(saved(image, tmp_path / "a.png", icc_profile=profile())).icc is None
    assert read_image(saved(image, tmp_path / "b.png", icc_profile=grey_profile())).icc == grey_profile()
    write_image(tmp_path / "a.webp", read_image(tmp_path / "b.png"))
    assert (read_image(tmp_path / "a.webp").icc or b"")[16:20] in (b"", b"RGB ")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_eight_orientations(tmp_path, orientation):
    stored_pixels = picture(size=(5, 8)).pixels
    image = Image.fromarray(stored_pixels)
    expected = np.asarray(ImageOps.exif_transpose(_with_orientation(image, orientation)))
    exif = exif_bytes(orientation)
    for name in ("a.png", "a.webp", "a.tif"):
        options = {"lossless": True} if name == "a.webp" else {}
        path = saved(image, tmp_path / name, exif=exif, dpi=(100, 200), **options)
        after = read_image(path)
        np.testing.assert_array_equal(after.pixels, expected)
        kept = Image.Exif()
        kept.load(after.exif)
        assert kept[0x0112] == 1
        if name != "a.webp":
            assert after.dpi == pytest.approx((100, 200) if orientation < 5 else (200, 100), abs=0.02)
    jpeg = saved(image, tmp_path / "a.jpg", exif=exif, quality=95)
    with Image.open(jpeg) as opened:
        np.testing.assert_array_equal(read_image(jpeg).pixels, np.asarray(ImageOps.exif_transpose(opened)))


def _with_orientation(image: Image.Image, orientation: int) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "PNG", exif=exif_bytes(orientation))
    return Image.open(data)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_eight_orientations_with_16_bits(tmp_path, orientation):
    samples = picture(np.uint16, 3, True, size=(5, 8))
    both = np.dstack((samples.pixels, samples.alpha))
    small = _with_orientation(Image.fromarray(np.arange(40, dtype=np.uint8).reshape(5, 8)), orientation)
    places = np.asarray(ImageOps.exif_transpose(small))
    expected = both.reshape(40, 4)[places.reshape(-1)].reshape(*places.shape, 4)
    tag = exif_bytes(orientation)[6:]
    tiff_tag = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "b.tif", both, photometric="rgb", extrasamples=[2], extratags=tiff_tag)
    stored(tmp_path / "a.png", png16(both, chunk(b"eXIf", tag)))
    stored(tmp_path / "late.png", png16(both, after=chunk(b"eXIf", tag)))
    for name in ("a.png", "late.png", "b.tif"):
        after = read_image(tmp_path / name)
        np.testing.assert_array_equal(np.dstack((after.pixels, after.alpha)), expected)
    lzw = cv2.imencode(".tif", samples.pixels[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1].tobytes()
    after = read_image(stored(tmp_path / "lzw.tif", _with_tag(lzw, struct.pack("<HHIHH", 274, 3, 1, orientation, 0))))
    np.testing.assert_array_equal(after.pixels, expected[..., :3])


def _with_tag(tiff: bytes, tag: bytes) -> bytes:
    """A little-endian TIFF with one more tag, in a new directory at its end."""
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    tags = [tiff[start + 2 + 12 * number :][:12] for number in range(count)] + [tag]
    tags.sort(key=lambda entry: struct.unpack_from("<H", entry))
    directory = struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4)
    tiff += b"\0" * (len(tiff) % 2)
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + directory


def test_the_thumbnail_of_the_original_is_dropped(tmp_path):
    exif = Image.Exif()
    exif.load(exif_bytes())
    tiff = bytearray(exif.tobytes()[6:])
    assert b"THUMB" not in read_image(_jpeg_with_thumbnail(tmp_path / "a.jpg", tiff)).exif


def _jpeg_with_thumbnail(path: Path, tiff: bytearray) -> Path:
    """A JPEG whose EXIF has a second directory that points to a thumbnail."""
    order = "<" if tiff[:2] == b"II" else ">"
    (first,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, first)
    struct.pack_into(f"{order}I", tiff, first + 2 + 12 * count, len(tiff))
    start = len(tiff) + 2 + 2 * 12 + 4
    tiff += struct.pack(f"{order}HHHIIHHIII", 2, 0x201, 4, 1, start, 0x202, 4, 1, 5, 0) + b"THUMB"
    return saved(Image.new("RGB", (8, 8)), path, exif=b"Exif\0\0" + bytes(tiff))


@pytest.mark.parametrize(
    "data", [b"", b"garbage", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\xff\xff" + bytes(range(200))]
)
def test_damaged_exif_is_dropped(tmp_path, data):
    path = saved(Image.new("RGB", (8, 8)), tmp_path / "a.jpg", exif=b"Exif\0\0" + data)
    after = read_image(path)
    assert after.exif is None
    deep = stored(tmp_path / "a.png", png16(np.ones((2, 2, 3), np.uint16), chunk(b"eXIf", data)))
    assert read_image(deep).exif is None
    for name in ("b.jpg", "b.png", "b.tif"):
        write_image(tmp_path / name, replace(after, exif=b"Exif\0\0" + data))
        assert read_image(tmp_path / name).pixels.shape == (8, 8, 3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6))
def test_exif_with_any_bytes_changed_does_no_harm(tmp_path, changes):
    exif = bytearray(exif_bytes(6))
    for place, value in changes:
        exif[6 + int(place * (len(exif) - 6))] = value
    path = saved(Image.new("RGB", (8, 6)), tmp_path / "a.jpg", exif=bytes(exif))
    after = read_image(path)
    for name in ("b.tif", "b.png"):
        write_image(tmp_path / name, after)
        read_image(tmp_path / name)


def test_exif_too_long_for_a_jpeg_is_left_out(tmp_path):
    exif = Image.Exif()
    exif[0x8769] = {0x927C: bytes(70000)}
    write_image(tmp_path / "a.jpg", picture(exif=exif.tobytes()))
    assert read_image(tmp_path / "a.jpg").exif is None


# What is refused


def _bad_files(folder: Path) -> dict[str, Path]:
    image = Image.fromarray(picture(size=(40, 50)).pixels)
    other = Image.fromarray(picture(size=(40, 50), seed=1).pixels)
    both = {"save_all": True, "append_images": [other]}
    floats = np.ones((4, 5), np.float32)
    tifffile.imwrite(folder / "float.tif", floats)
    tifffile.imwrite(folder / "signed.tif", floats.astype(np.int16))
    tifffile.imwrite(folder / "int.tif", floats.astype(np.uint32))
    tifffile.imwrite(folder / "rgbfloat.tif", np.ones((4, 5, 3), np.float32), photometric="rgb")
    (folder / "folder.png").mkdir()
    return {
        "does not exist": folder / "missing.png",
        "folder": folder / "folder.png",
        "empty": stored(folder / "empty.png", b""),
        "not an image": stored(folder / "text.png", b"hello, this is text"),
        "GIF": saved(image, folder / "gif.png", format="GIF"),
        "PDF": stored(folder / "pdf.jpg", b"%PDF-1.7\n"),
        "HEIC": stored(folder / "heic.jpg", b"\0\0\0\x18ftypheic" + bytes(100)),
        "damaged": stored(folder / "head.png", b"\x89PNG\r\n\x1a\n" + b"no chunk at all"),
        "damaged ": stored(folder / "head.jpg", b"\xff\xd8\xff\xe0" + bytes(40)),
        "damaged  ": stored(folder / "head.webp", b"RIFF\x24\0\0\0WEBPVP8 " + bytes(40)),
        "damaged   ": stored(folder / "head.tif", b"II*\0\x08\0\0\0\xff\xff" + bytes(40)),
        "damaged    ": stored(folder / "head.bmp", b"BM" + bytes(60)),
        "animated (2 frames)": saved(image, folder / "apng.png", **both),
        "animated": saved(image, folder / "anim.webp", **both),
        "holds 2 pages": saved(image, folder / "pages.tif", **both),
        "floating-point": folder / "float.tif",
        "floating-point ": folder / "rgbfloat.tif",
        "signed": folder / "signed.tif",
        "32-bit": folder / "int.tif",
    }


def test_bad_files_are_refused_by_name(tmp_path, capfd):
    for words, path in _bad_files(tmp_path).items():
        with pytest.raises(BadImage) as caught:
            read_image(path)
        message = str(caught.value)
        assert str(path) in message and words.strip() in message and "\n" not in message, message
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("format", ["png", "jpg", "webp", "tiff", "bmp"])
def test_files_cut_short_are_refused(tmp_path, format, dtype):
    path = tmp_path / f"a.{format}"
    write_image(path, picture(dtype, size=(40, 50)))
    data = path.read_bytes()
    for share in (0.01, 0.1, 0.5, 0.9, 0.98):
        with pytest.raises(BadImage, match="cut short"):
            read_image(stored(path, data[: max(len(data[:4]) + 8, int(share * len(data)))]))


FILES = [("png", np.uint8), ("png", np.uint16), ("tiff", np.uint8), ("tiff", np.uint16)]
FILES += [("jpg", np.uint8), ("webp", np.uint8), ("bmp", np.uint8)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(FILES),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=5),
    kept=st.sampled_from([0.1, 0.5, 0.9, 1, 1, 1]),
)
def test_damage_gives_a_picture_or_a_named_error(tmp_path, kind, changes, kept):
    format, dtype = kind
    path = tmp_path / f"a.{format}"
    write_image(path, picture(dtype, alpha=True, exif=exif_bytes(), icc=profile(), dpi=(90.0, 90.0)))
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[int(place * len(data))] = value
    path.write_bytes(data[: int(kept * len(data))])
    try:
        read_image(path)
    except RefsrError as error:
        assert str(path) in str(error)


def test_previews_in_a_tiff_are_not_pages(tmp_path):
    samples = picture(np.uint16).pixels
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(samples, photometric="rgb")
        file.write(samples[::2, ::2], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, samples)


def test_a_phones_jpeg_of_several_pictures_gives_the_first(tmp_path):
    first, second = (Image.fromarray(picture(seed=seed).pixels) for seed in (0, 1))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second], quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.n_frames == 2
        np.testing.assert_array_equal(read_image(tmp_path / "a.jpg").pixels, np.asarray(image))


def test_the_content_tells_the_format(tmp_path):
    image = Image.fromarray(picture().pixels)
    assert read_image(saved(image, tmp_path / "a.jpg", format="PNG")).format == "png"
    assert read_image(saved(image, tmp_path / "b", format="BMP")).format == "bmp"


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_file_one_may_not_read(tmp_path):
    path = saved(Image.new("RGB", (4, 4)), tmp_path / "a.png")
    path.chmod(0)
    with pytest.raises(BadImage, match="Permission denied"):
        read_image(path)


def test_paths_of_any_kind(tmp_path):
    path = tmp_path / "ünïcödé 图像 \U0001f600.png"
    for dtype in DEPTHS:
        write_image(path, picture(dtype))
        assert_same(read_image(path), picture(dtype))
    for bad in (Path("a\0b.png"), tmp_path / ("x" * 300 + ".png")):
        with pytest.raises(BadImage):
            read_image(bad)
        with pytest.raises(BadImage):
            write_image(bad, picture())


def _bombs(folder: Path) -> list[Path]:
    claimed = struct.pack(">IIBBBBB", 100_000, 50_000, 8, 2, 0, 0, 0)
    deep = struct.pack(">IIBBBBB", 100_000, 50_000, 16, 2, 0, 0, 0)
    start, end = b"\x89PNG\r\n\x1a\n", chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    jpeg = bytearray(saved(Image.new("L", (8, 8)), folder / "b.jpg").read_bytes())
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\x00\xff\x00"
    tiff = bytearray(saved(Image.new("L", (8, 8)), folder / "b.tif").read_bytes())
    with tifffile.TiffFile(folder / "b.tif") as file:
        for tag in (256, 257):
            struct.pack_into("<I", tiff, file.pages[0].tags[tag].offset + 8, 60_000)
            struct.pack_into("<H", tiff, file.pages[0].tags[tag].offset + 2, 4)
    bmp = bytearray(saved(Image.new("L", (8, 8)), folder / "b.bmp").read_bytes())
    struct.pack_into("<ii", bmp, 18, 60_000, 60_000)
    return [
        stored(folder / "a.png", start + chunk(b"IHDR", claimed) + end),
        stored(folder / "d.png", start + chunk(b"IHDR", deep) + end),
        stored(folder / "a.jpg", bytes(jpeg)),
        stored(folder / "a.tif", bytes(tiff)),
        stored(folder / "a.bmp", bytes(bmp)),
    ]


def test_bombs_are_refused_from_their_header(tmp_path):
    for path in _bombs(tmp_path):
        with pytest.raises(BadImage, match="--allow-large"):
            read_image(path)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.jpg"])
def test_large_pictures_are_read_when_asked_and_pillows_limit_stays(tmp_path, monkeypatch, name):
    write_image(tmp_path / name, picture(), quality=100)
    monkeypatch.setattr(reading, "LARGE", 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(BadImage, match="--allow-large"):
        read_image(tmp_path / name)
    assert read_image(tmp_path / name, allow_large=True).pixels.shape == (11, 17, 3)
    assert Image.MAX_IMAGE_PIXELS == 50


@pytest.mark.parametrize(("module", "remedy"), [("cv2", "pip install opencv"), ("tifffile", "pip install tifffile")])
def test_without_the_16_bit_packages_8_bits_work(tmp_path, monkeypatch, module, remedy):
    for dtype in DEPTHS:
        for name in ("png", "tif"):
            write_image(tmp_path / f"{np.dtype(dtype)}.{name}", picture(dtype))
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == module:
            raise ImportError("libGL.so.1: cannot open shared object file")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for name in ("png", "tif"):
        assert_same(read_image(tmp_path / f"uint8.{name}"), picture())
    with pytest.raises(BadImage, match=remedy):
        read_image(tmp_path / ("uint16.png" if module == "cv2" else "uint16.tif"))
    write_image(tmp_path / "new.png", picture(np.uint16))
    write_image(tmp_path / "new.tif", picture(np.uint16))


def test_importing_the_module_loads_neither_opencv_nor_tifffile():
    code = "import sys, refsr_cli.images; sys.exit(bool({'cv2', 'tifffile'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Writing whole or not at all


def test_what_cannot_be_written_is_said_beforehand(tmp_path):
    wide = Picture(np.zeros((1, 16384, 3), np.uint8), None, "png", None, None, None)
    with pytest.raises(BadImage, match=r"16383.*png or tiff"):
        write_image(tmp_path / "a.webp", wide)
    with pytest.raises(BadImage, match=r"65500.*png or tiff"):
        write_image(tmp_path / "a.jpg", replace(wide, pixels=np.zeros((65501, 1, 1), np.uint8)))
    write_image(tmp_path / "b.jpg", replace(wide, pixels=np.zeros((65500, 1, 1), np.uint8)))
    with pytest.raises(BadImage, match=r"folder .*missing does not exist"):
        write_image(tmp_path / "missing/a.png", picture())
    with pytest.raises(BadImage, match="not a file"):
        write_image(tmp_path, picture(), format="png")
    with pytest.raises(BadImage, match=r"\.png"):
        write_image(tmp_path / "a.gif", picture())
    with pytest.raises(BadSetting, match="png"):
        write_image(tmp_path / "a.png", picture(), format="pngg")
    for quality in (0, 101, -5):
        with pytest.raises(BadSetting, match="1 to 100"):
            write_image(tmp_path / "a.jpg", picture(), quality=quality)
    assert [path.name for path in tmp_path.iterdir()] == ["b.jpg"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("odd"), KeyboardInterrupt()])
@pytest.mark.parametrize(("name", "dtype"), [("a.png", np.uint8), ("a.png", np.uint16), ("a.tif", np.uint16)])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, name, dtype, error):
    (tmp_path / name).write_bytes(b"old")

    def fail(file, *args, **kwargs):
        file.write(b"half")
        raise error

    for place in ("eight_bits.write", "png.write", "tiff.write"):
        monkeypatch.setattr(f"refsr_cli.images.{place}", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else BadImage) as caught:
        write_image(tmp_path / name, picture(dtype))
    if isinstance(error, OSError):
        assert str(caught.value) == f"{tmp_path / name} cannot be written: No space left on device"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"old"


@pytest.mark.skipif(os.name == "nt", reason="links and modes of POSIX")
def test_a_link_is_followed_and_the_mode_is_that_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    write_image(tmp_path / "link.png", picture())
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_format_may_differ_from_the_suffix(tmp_path):
    write_image(tmp_path / "a.out", picture(), format="tiff")
    assert read_image(tmp_path / "a.out").format == "tiff"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize(
    ("dtype", "suffix", "mib"),
    [
        ("uint8", "png", 100),
        ("uint8", "tif", 100),
        ("uint16", "png", 100),
        ("uint16", "tif", 100),
        ("uint8", "jpg", 500),
    ],
)
def test_a_large_picture_is_written_without_a_copy(tmp_path, dtype, suffix, mib):
    """288 or 576 MB of pixels; Pillow, which writes JPEG, makes one copy of four bytes a pixel."""
    code = (
        "import sys, resource, numpy as np\n"
        "from pathlib import Path\n"
        "from refsr_cli.images import Picture, write_image\n"
        f"write_image(Path(sys.argv[1]).with_suffix('.small.{suffix}'),\n"
        f"    Picture(np.zeros((8, 8, 3), np.{dtype}), None, 'png', None, None, None))\n"
        f"pixels = np.zeros((8000, 12000, 3), np.{dtype})\n"
        "pixels[::16] = 200\n"
        "taken = next(line for line in open('/proc/self/status') if line.startswith('VmData'))\n"
        f"limit = (int(taken.split()[1]) << 10) + ({mib} << 20)\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))\n"
        "write_image(Path(sys.argv[1]), Picture(pixels, None, 'png', None, None, None))\n"
    )
    path = tmp_path / f"a.{suffix}"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert path.stat().st_size > 0


# Pixels and tensors


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_value_survives_the_tensor(dtype, channels):
    values = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(-1, 16, 1).repeat(channels, 2)
    x = to_tensor(values)
    assert x.shape == (1, 3, *values.shape[:2]) and x.dtype == torch.float32 and x.is_contiguous()
    assert x.min() == 0 and x.max() == 1
    np.testing.assert_array_equal(to_pixels(x, values), values)
    np.testing.assert_array_equal(to_tensor(values[..., 0]), x)


def test_windows_and_read_only_pixels_become_tensors():
    pixels = picture(size=(9, 9)).pixels
    pixels.flags.writeable = False
    window = to_tensor(pixels[2:7, 3:5])
    np.testing.assert_array_equal(window[0].numpy(), pixels[2:7, 3:5].transpose(2, 0, 1) / np.float32(255))
    window.add_(1)


def test_to_pixels_clamps_rounds_half_up_and_averages_to_grey():
    values = torch.tensor([-1.0, 0.5 / 255, 1.5 / 255, 2.49 / 255, 1.0, 7.0]).expand(1, 3, 2, 6)
    rgb = to_pixels(values, np.zeros((1, 1, 3), np.uint8))
    assert rgb.shape == (2, 6, 3) and rgb[0, :, 0].tolist() == [0, 1, 2, 2, 255, 255]
    mixed = torch.tensor([0.0, 0.3, 0.6]).reshape(1, 3, 1, 1)
    assert to_pixels(mixed, np.zeros((1, 1, 1), np.uint16)).tolist() == [[[int(0.3 * 65535 + 0.5)]]]
    assert to_pixels(mixed.bfloat16(), np.zeros((1, 1, 1), np.uint8)).shape == (1, 1, 1)


def test_training_photos_are_8_bit_rgb(tmp_path, shared_data):
    path = sorted((shared_data / "eval/Set5").glob("*.png"))[0]
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_rgb8(path).permute(1, 2, 0), np.asarray(image.convert("RGB")))
    before = picture(np.uint16, 1, True)
    write_image(tmp_path / "a.png", before)
    photo = read_rgb8(tmp_path / "a.png")
    assert photo.shape == (3, 11, 17) and photo.dtype == torch.uint8 and photo.is_contiguous()
    np.testing.assert_array_equal(photo[1], np.rint(before.pixels[..., 0] / 257))
    photo.add_(1)


def test_photos_are_read_as_pillow_reads_them(shared_data):
    for path in [*sorted((shared_data / "demo").glob("*.jpg")), *sorted((shared_data / "eval/Set14").glob("*"))[:4]]:
        with Image.open(path) as image:
            expected = np.atleast_3d(np.asarray(ImageOps.exif_transpose(image)))
        np.testing.assert_array_equal(read_image(path).pixels, expected)


# Colour below transparency


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(DEPTHS),
)
def test_bleeding_changes_no_visible_pixel_and_invents_no_colour(height, width, share, seed, dtype):
    before = picture(dtype, 3, True, size=(height, width), seed=seed)
    before.alpha[np.random.default_rng(seed).random((height, width)) < share] = 0
    after = bleed_color(before)
    seen = before.alpha > 0
    np.testing.assert_array_equal(after.pixels[seen], before.pixels[seen])
    np.testing.assert_array_equal(after.alpha, before.alpha)
    if seen.any():
        assert (after.pixels >= before.pixels[seen].min(0)).all() and (after.pixels <= before.pixels[seen].max(0)).all()


def test_bleeding_takes_the_nearest_colour():
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :5], pixels[:, -5:] = (200, 0, 0), (0, 0, 200)
    alpha = np.zeros((20, 40), np.uint8)
    alpha[:, :5] = alpha[:, -5:] = 255
    after = bleed_color(Picture(pixels, alpha, "png", None, None, None)).pixels
    assert (after[:, 6, 0] > 150).all() and (after[:, 33, 2] > 150).all()


@pytest.mark.parametrize("dtype", DEPTHS)
def test_a_white_disc_stays_white_when_enlarged(dtype):
    peak = np.iinfo(dtype).max
    y, x = np.mgrid[:33, :47]
    alpha = np.where((y - 16) ** 2 + (x - 20) ** 2 < 140, peak, 0).astype(dtype)
    pixels = np.where(alpha[..., None] > 0, peak, 0).astype(dtype).repeat(3, 2)
    disc = bleed_color(Picture(pixels, alpha, "png", None, None, None))
    for scale in (2, 3, 4):
        color = to_pixels(upscale(to_tensor(disc.pixels), scale), pixels)
        opacity = to_pixels(upscale(to_tensor(alpha), scale), alpha[..., None])[..., 0]
        assert (color[opacity > 0] == peak).all()
    assert (to_pixels(upscale(to_tensor(pixels), 2), pixels)[opacity[::2, ::2][:66, :94] > 0] < peak).any()


def test_bleeding_without_transparency_changes_nothing():
    for before in (picture(), replace(picture(alpha=True), alpha=np.zeros((11, 17), np.uint8))):
        np.testing.assert_array_equal(bleed_color(before).pixels, before.pixels)


def test_rounding_to_8_bits_is_exact():
    values = np.arange(65536, dtype=np.uint16).reshape(256, -1)
    np.testing.assert_array_equal(eight_bits.rounded(values), np.floor(values / 257 + 0.5))
