"""Images in and out: every kind of file comes in right, goes out whole, and bad ones give one line."""

from __future__ import annotations

import errno
import functools
import io
import itertools
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, ImageOps

from itersr import pictures
from itersr.disk import WriteError
from itersr.pictures import Meta, Photo
from itersr.upscaling import read, write
from itersr.upscaling.read import ImageError


def noise(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 255 / height, x * 255 / width, (x + y) * 255 / (height + width)], -1).astype(np.uint8)


SEEN = np.array([0, 0, 0, 1], np.uint8)  # no pixel of RGBA is wholly transparent
# Pillow's options for a file close to its pixels
BEST: dict[str, dict] = {"webp": {"lossless": True}, "jpg": {"quality": 98, "subsampling": 0}}


@functools.cache  # Pillow writes the time into a profile that it makes
def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


# ------------------------------------------------------------------------------------------------------ bundled photos


def test_bundled_split_is_fixed_disjoint_and_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *a: pytest.fail("bundled photos reached for the network"))
    train, test = pictures.bundled("train"), pictures.bundled("test")
    assert set(train) == {"astronaut", "motorcycle_left", "motorcycle_right"}
    assert set(test) == {"chelsea", "coffee", "rocket"}
    for photo in [*train.values(), *test.values()]:
        assert photo.shape[0] == 3 and min(photo.shape[1:]) >= 300 and photo.dtype == torch.float32
        assert 0 <= photo.min() < 0.2 and 0.8 < photo.max() <= 1
        assert (photo[0] != photo[2]).any(), "a colour photo"
    with pytest.raises(ValueError, match="'valid'.*needed"):
        pictures.bundled("valid")


def test_folder_lists_images_of_all_levels_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.JPG", "a/y.webp", ".hidden/x.png", ".y.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [p.relative_to(tmp_path).as_posix() for p in read.image_files(tmp_path)] == ["a/y.webp", "a/z.JPG", "b.png"]
    for name in ("none", "b.png"):
        with pytest.raises(ImageError, match="is not a folder"):
            read.image_files(tmp_path / name)
    with pytest.raises(ImageError, match="holds no image"):
        (tmp_path / "empty").mkdir()
        read.image_files(tmp_path / "empty")


def test_what_is_left_out_of_a_folder_is_told_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "in"
    for name in ("a.jfif", "b.heic", "sub/c.AVIF", "notes.txt", "locked/d.png", ".hidden/e.heic", "good.png"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    try:
        (place / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        (place / "nowhere.png").symlink_to(tmp_path / "nothing")
        (place / "there.png").symlink_to(place / "good.png")
    except OSError:
        pytest.skip("no links here")
    scan = os.scandir

    def guarded(path: str) -> object:  # root may look everywhere
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert [file.name for file in read.image_files(place)] == ["a.jfif", "good.png", "there.png"]
    (line,) = caplog.messages
    assert line.startswith(f"{place}: 5 left out (")
    assert line.endswith(f": b.heic, linked, locked, nowhere.png, {Path('sub', 'c.AVIF')}")


def test_jfif_is_jpeg(tmp_path: Path) -> None:
    Image.fromarray(smooth(16, 24)).save(tmp_path / "x.jfif", "JPEG")
    write.write(read.read(tmp_path / "x.jfif"), tmp_path / "y.jfif")
    assert Image.open(tmp_path / "y.jfif").format == "JPEG"


# ---------------------------------------------------------------------------------------------------------------- read


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp", "jpg"])
def test_colour_files_read_as_their_pixels(tmp_path: Path, suffix: str) -> None:
    pixels, path = smooth(20, 30), tmp_path / f"x.{suffix}"
    Image.fromarray(pixels).save(path, **BEST.get(suffix, {}))
    photo = read.read(path)
    assert photo.tensor.shape == (3, 20, 30) and photo.alpha is None and not photo.meta.grey and photo.meta.bits == 8
    tolerance = 8 / 255 if suffix == "jpg" else 1e-6
    assert np.abs(photo.tensor.permute(1, 2, 0).numpy() - pixels / 255).max() <= tolerance


@pytest.mark.parametrize(
    ("mode", "grey", "alpha"),
    [("1", True, False), ("L", True, False), ("LA", True, True), ("P", False, False), ("RGBA", False, True)],
)
def test_modes_of_png(tmp_path: Path, mode: str, grey: bool, alpha: bool) -> None:
    source = Image.fromarray(noise(9, 7, 4))
    image = (source.convert("RGB") if mode == "P" else source).convert(mode)
    image.save(tmp_path / "x.png")
    photo = read.read(tmp_path / "x.png")
    assert photo.meta.grey is grey and (photo.alpha is not None) is alpha
    expected = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
    assert np.allclose(photo.tensor.permute(1, 2, 0), expected[..., :3], atol=1e-6)
    if photo.alpha is not None:
        assert photo.alpha.shape == (1, 9, 7) and np.allclose(photo.alpha[0], expected[..., 3], atol=1e-6)


def test_transparent_palette_and_colour_key_become_alpha(tmp_path: Path) -> None:
    palette = Image.fromarray(noise(8, 8, 3)).quantize(4)
    palette.save(tmp_path / "p.png", transparency=1)
    Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "key.png", transparency=(10, 20, 30))
    photo = read.read(tmp_path / "p.png")
    assert photo.alpha is not None
    assert torch.equal(photo.alpha[0] == 0, torch.from_numpy(np.asarray(palette) == 1))
    key = read.read(tmp_path / "key.png").alpha
    assert key is not None and (key == 0).all()


def test_cmyk_becomes_rgb_and_loses_its_profile(tmp_path: Path) -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    image.save(tmp_path / "x.jpg", icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 200, quality=95)
    photo = read.read(tmp_path / "x.jpg")
    red = photo.tensor.mean((1, 2))
    assert red[0] > 0.9 and red[1] < 0.1 and red[2] < 0.1
    assert photo.meta.icc is None and "CMYK" in photo.meta.notes[0]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_round_trip_is_exact_and_others_read_it(tmp_path: Path, channels: int, suffix: str) -> None:
    pixels = noise(11, 13, channels, dtype=np.uint16)
    x = torch.from_numpy(pixels.astype(np.float32) / 65535).permute(2, 0, 1)
    grey = channels < 3
    photo = Photo(
        x[:1].repeat(3, 1, 1) if grey else x[:3],
        x[-1:] if channels in (2, 4) else None,
        Meta(bits=16, grey=grey, icc=None if grey else srgb()),
    )
    path = tmp_path / f"x.{suffix}"
    write.write(photo, path)
    again = read.read(path)
    if channels == 2:
        grey = False  # written as RGBA: Pillow, and so many a program, opens no 16 bit grey TIFF with alpha, nor writes a PNG
    assert again.meta.bits == 16 and again.meta.grey is grey and again.meta.icc == photo.meta.icc
    assert torch.equal((again.tensor * 65535).round(), (photo.tensor * 65535).round())
    if photo.alpha is not None:
        assert again.alpha is not None and torch.equal((again.alpha * 65535).round(), (photo.alpha * 65535).round())
    if channels != 2:  # OpenCV drops grey's alpha
        other = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).reshape(11, 13, channels)
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
        assert np.array_equal(other[..., order], pixels)


def test_16_bit_files_of_opencv_are_read_exactly(tmp_path: Path) -> None:
    pixels = noise(12, 10, 3, dtype=np.uint16)
    for name in ("x.png", "x.tif"):
        cv2.imwrite(str(tmp_path / name), pixels[..., ::-1])  # filtered PNG rows; TIFF with LZW
        photo = read.read(tmp_path / name)
        assert photo.meta.bits == 16, photo.meta.notes
        assert np.array_equal((photo.tensor * 65535).round().permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_exif_orientation_is_applied_once_and_forgotten(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[315] = orientation, "A. Photographer"
    image = Image.fromarray(smooth(16, 24))
    path = tmp_path / f"x.{suffix}"
    image.save(path, exif=exif.tobytes(), **BEST.get(suffix, {}))
    upright = image.copy()
    upright.info["exif"] = exif.tobytes()
    expected = np.asarray(ImageOps.exif_transpose(upright)) / 255
    photo = read.read(path)
    got = photo.tensor.permute(1, 2, 0).numpy()
    assert got.shape == expected.shape and np.abs(got - expected).max() < 0.06
    assert photo.meta.exif is not None
    kept = Image.Exif()
    kept.load(photo.meta.exif)
    assert 0x0112 not in kept and kept[315] == "A. Photographer"
    write.write(photo, tmp_path / f"y.{suffix}")
    again = read.read(tmp_path / f"y.{suffix}")
    assert again.size == photo.size and (again.tensor - photo.tensor).abs().max() < 0.06


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_tiff_of_both_byte_orders(tmp_path: Path, byteorder: str, compression: str | None, channels: int) -> None:
    pixels = noise(12, 10, channels, dtype=np.uint16)
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="rgb", byteorder=byteorder, compression=compression, **extra)
    photo = read.read(tmp_path / "x.tif")
    assert photo.meta.bits == 16, photo.meta.notes
    got = photo.tensor if photo.alpha is None else torch.cat([photo.tensor, photo.alpha])
    assert np.array_equal((got * 65535).round().permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    pixels = (smooth(16, 24).astype(np.uint16) * 257).copy()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    if suffix == "png":
        x = torch.from_numpy(pixels.astype(np.float32) / 65535).permute(2, 0, 1)
        write.write(Photo(x, None, Meta(bits=16, exif=exif.tobytes())), path)
    else:
        tifffile.imwrite(path, pixels, photometric="rgb", extratags=[(274, 3, 1, orientation, True)], metadata=None)
    upright = Image.fromarray(smooth(16, 24))
    upright.info["exif"] = exif.tobytes()
    expected = np.asarray(ImageOps.exif_transpose(upright)) / 255
    photo = read.read(path)
    assert photo.meta.bits == 16, photo.meta.notes
    got = photo.tensor.permute(1, 2, 0).numpy()
    assert got.shape == expected.shape and np.abs(got - expected).max() < 1e-4


def test_a_tiff_where_0_is_white_is_no_negative(tmp_path: Path) -> None:
    pixels = noise(9, 7, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", 65535 - pixels, photometric="miniswhite")
    for tensor in (read.read(tmp_path / "x.tif").tensor, pictures.to_tensor(Image.open(tmp_path / "x.tif"))[0]):
        assert np.array_equal((tensor[0] * 65535).round().numpy(), pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_of_a_16_bit_png_becomes_alpha(tmp_path: Path, channels: int) -> None:
    pixels = noise(9, 7, channels, dtype=np.uint16)
    x = torch.from_numpy(pixels.astype(np.float32) / 65535).permute(2, 0, 1).expand(3, -1, -1)
    write.write(Photo(x, None, Meta(bits=16, grey=channels == 1)), tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    key = b"tRNS" + pixels[3, 4].astype(">u2").tobytes()
    chunk = struct.pack(">I", len(key) - 4) + key + struct.pack(">I", zlib.crc32(key))
    (tmp_path / "x.png").write_bytes(data[:33] + chunk + data[33:])
    photo = read.read(tmp_path / "x.png")
    assert photo.meta.bits == 16 and photo.meta.grey is (channels == 1), photo.meta.notes
    assert np.array_equal((photo.tensor * 65535).round().permute(1, 2, 0).numpy()[..., :channels], pixels)
    assert photo.alpha is not None and np.array_equal(photo.alpha[0] == 0, (pixels == pixels[3, 4]).all(-1))
    image = Image.open(tmp_path / "x.png")  # in Pillow's own modes 8 bits are left with alpha
    assert pictures.like(image, pictures.to_tensor(image)).mode == ("LA" if channels == 1 else "RGBA")


def test_animated_files_give_the_first_frame_and_say_so(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    photo = read.read(tmp_path / "x.gif")
    assert torch.allclose(photo.tensor.mean((1, 2)), torch.tensor([1.0, 0, 0]))
    assert any("3 frames" in note for note in photo.meta.notes)


def test_broken_exif_is_no_reason_to_refuse_a_picture(tmp_path: Path) -> None:
    Image.fromarray(smooth(8, 8)).save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 30)
    assert read.read(tmp_path / "x.jpg").size == (8, 8)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def whole_png() -> bytes:
    out = io.BytesIO()
    Image.fromarray(noise(40, 40, 3)).save(out, format="PNG")
    return out.getvalue()


def bomb_png(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not an image"),
        (b"<html>404</html>", "is not an image"),
        (whole_png()[:-900], "cannot be read .image file is truncated"),
        (whole_png()[:60], "cannot be read|not an image"),
        (bomb_png(60_000, 60_000), "3600000000 pixels.*exceeds limit of 178956970 pixels"),
    ],
)
def test_bad_files_give_one_line_with_name_fault_and_cure(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=said) as caught:
        read.read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value) and "; " in str(caught.value)


def test_missing_folder_and_secret_files(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none.png", "No such file"), (tmp_path, "Is a directory"), ("a\0b.png", "null byte")):
        with pytest.raises(ImageError, match=f"cannot be read .*{said}"):
            read.read(path)


# ------------------------------------------------------------------- every way to store a picture: read right, or refused


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """(H, W, C) of integers below 2^bits as (H, bytes of a row): small ones packed, 16 bit with the high byte first."""
    rows = values.reshape(len(values), -1)
    if bits == 16:
        return rows.astype(">u2").view(np.uint8)
    each = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
    return np.packbits(each.reshape(len(rows), -1), axis=-1)


def png_file(values: np.ndarray, bits: int, colour_type: int, extra: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed(values, bits)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def fault(path: Path, rgb: np.ndarray, alpha: np.ndarray | None, tolerance: float, usual: bool = True) -> str:
    """What is wrong with how a file is read: "" if it is right, or, for an unusual one, refused in one line."""
    try:
        photo = read.read(path)
    except ImageError as error:
        return "" if not usual and "\n" not in str(error) and str(path) in str(error) else f"said {str(error)!r}"
    tolerance = max(tolerance, 1.5 / 255) if any("read with 8 bits" in note for note in photo.meta.notes) else tolerance
    got = photo.tensor.permute(1, 2, 0).numpy()
    seen = slice(None) if alpha is None else alpha > 0  # a colour key hides its own colour
    wrong = "" if np.abs(got - rgb)[seen].max() <= tolerance else f"colours off by {np.abs(got - rgb)[seen].max():.3f}"
    if (alpha is None) != (photo.alpha is None):
        return wrong + " alpha"
    if alpha is not None and photo.alpha is not None and np.abs(photo.alpha[0].numpy() - alpha).max() > tolerance:
        wrong += " values of alpha"
    return wrong


def png_cases() -> Iterator[tuple[str, bytes, np.ndarray, np.ndarray | None]]:
    """What a PNG can be: a name, the file, its colours and its alpha."""
    rng = np.random.default_rng(0)
    kinds = ((0, 1), (2, 3), (3, 1), (4, 2), (6, 4))  # colour type and channels: grey, RGB, palette, and two with alpha
    for bits, (colour_type, channels), clear in itertools.product((1, 2, 4, 8, 16), kinds, (False, True)):
        if (bits < 8 and colour_type not in (0, 3)) or (colour_type == 3 and bits == 16) or (clear and colour_type > 3):
            continue
        values = rng.integers(0, 2**bits, (7, 9, channels))
        extra, alpha = b"", None
        colours = values[..., :3] if channels > 2 else values[..., :1].repeat(3, -1)
        rgb = colours / (2**bits - 1)
        if channels in (2, 4):
            alpha = values[..., -1] / (2**bits - 1)
        if colour_type == 3:
            table = rng.integers(0, 256, (2**bits, 3))
            rgb, extra = table[values[..., 0]] / 255, chunk(b"PLTE", table.astype(np.uint8).tobytes())
        if clear and colour_type == 3:
            some = rng.integers(0, 256, 2**bits)
            alpha, extra = some[values[..., 0]] / 255, extra + chunk(b"tRNS", some.astype(np.uint8).tobytes())
        elif clear:
            key = values[3, 4]
            alpha, extra = (values != key).any(-1).astype(float), chunk(b"tRNS", key.astype(">u2").tobytes())
        yield f"{bits} bit, type {colour_type}, clear {clear}", png_file(values, bits, colour_type, extra), rgb, alpha


def test_every_kind_of_png_is_read_right(tmp_path: Path) -> None:
    wrong, count = [], 0
    for name, data, rgb, alpha in png_cases():
        (tmp_path / "x.png").write_bytes(data)
        count += 1
        if what := fault(tmp_path / "x.png", rgb, alpha, 1e-6):
            wrong.append(f"{name}: {what}")
    assert not wrong and count == 26, "\n".join(wrong)


def tiff_cases() -> Iterator[tuple[str, int, np.ndarray, np.ndarray, np.ndarray | None, dict[str, Any]]]:
    """What a TIFF can be: a name, bits of a channel, pixels (H, W, C), their colours and alpha, and tifffile's settings."""
    rng = np.random.default_rng(0)
    kinds: list[tuple[int, Any]] = [(bits, np.uint8) for bits in (1, 2, 4, 8)]
    kinds += [(8 * np.dtype(kind).itemsize, kind) for kind in "uint16 uint32 int16 float16 float32 float64".split()]
    photometrics = {"minisblack": 1, "miniswhite": 1, "palette": 1, "rgb": 3, "separated": 4}
    extras = (None, "unassalpha", "assocalpha", "unspecified")
    for (bits, kind), (photometric, channels), extra in itertools.product(kinds, photometrics.items(), extras):
        whole = np.dtype(kind).kind != "f"
        if (bits < 8 and (channels > 1 or extra)) or (photometric == "palette" and (bits not in (4, 8) or extra)):
            continue
        top = np.iinfo(kind).max if bits > 8 and whole else 2**bits - 1 if whole else 1
        values = rng.random((7, 16, channels + (extra is not None)))
        if extra == "assocalpha":
            values[..., -1] = 0.5 + values[..., -1] / 2
            values[..., :-1] *= values[..., -1:]
        stored = (values * top).astype(kind)
        colours = stored[..., :channels].astype(float) / top
        alpha = stored[..., -1].astype(float) / top if extra and "alpha" in extra else None
        if extra == "assocalpha":
            colours = (colours / alpha[..., None]).clip(0, 1)
        settings: dict[str, Any] = {"photometric": photometric, "extrasamples": [extra] if extra else None}
        if photometric == "palette":
            settings["colormap"] = rng.integers(0, 256, (3, 2**bits)).astype(np.uint16) * 257
            colours = settings["colormap"].T[stored[..., 0]] / 65535
        elif photometric == "miniswhite":
            colours = 1 - colours
        elif photometric == "separated":
            colours = (1 - colours[..., :3]) * (1 - colours[..., 3:])
        rgb = colours.repeat(3, -1) if colours.shape[-1] == 1 else colours
        yield f"{np.dtype(kind)} {bits} bit, {photometric}, {extra}", bits, stored, rgb, alpha, settings


def write_tiff(path: Path, bits: int, pixels: np.ndarray, settings: dict[str, Any]) -> None:
    """By tifffile, which packs no 1, 2 or 4 bits alone: such rows are written as bytes, and the tags changed."""
    table = settings.pop("colormap") if bits < 8 and "colormap" in settings else None
    if table is not None:
        settings |= {"colormap": np.zeros((3, 256), np.uint16)}
    if settings.get("planarconfig") == "separate":
        pixels = np.moveaxis(pixels, -1, 0).copy()
    elif pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    tifffile.imwrite(path, packed(pixels, bits) if bits < 8 else pixels, metadata=None, **settings)
    if bits < 8:
        with tifffile.TiffFile(path, mode="r+b") as file:
            tags = file.pages[0].tags
            tags[258].overwrite(bits)
            tags[256].overwrite(pixels.shape[1])
            if table is not None:
                tags[320].overwrite(table.ravel())


def test_every_kind_of_tiff_is_read_right_or_refused_in_one_line(tmp_path: Path) -> None:
    wrong, count = [], 0
    for name, bits, pixels, rgb, alpha, settings in tiff_cases():
        tolerance = 4 / 255 if "assocalpha" in name else 2.5 / 255 if "separated" in name else 1e-3 if bits == 8 else 1e-4
        packings: list[dict[str, Any]] = [{}, {"compression": "zlib"}]
        if bits in (8, 16) and "float" not in name:
            packings.append({"compression": "zlib", "predictor": 2})
        planes = ("contig", "separate") if pixels.shape[-1] > 1 else (None,)
        for order, packing, plane in itertools.product("<>", packings, planes):
            write_tiff(tmp_path / "x.tif", bits, pixels, {**settings, **packing, "byteorder": order, "planarconfig": plane})
            count += 1
            usual = pixels.dtype in (np.uint8, np.uint16) and name.endswith("None") and plane != "separate"
            usual &= not name.startswith("uint16 16 bit, miniswhite")  # Pillow opens one byte order of these alone
            if what := fault(tmp_path / "x.tif", rgb, alpha, tolerance, usual):
                wrong.append(f"{name}, {order}, {packing}, {plane}: {what}")
    assert not wrong, f"{len(wrong)} of {count}\n" + "\n".join(wrong)


# --------------------------------------------------------------------------------------------------------------- write


def photo(height: int = 12, width: int = 10, **meta: object) -> Photo:
    return Photo(torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)), None, Meta(**meta))  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_profile_and_exif_survive(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[33432] = "somebody"
    write.write(photo(icc=srgb(), exif=exif.tobytes()), tmp_path / f"x.{suffix}")
    again = read.read(tmp_path / f"x.{suffix}")
    assert again.meta.icc == srgb()
    assert again.meta.exif is not None and b"somebody" in again.meta.exif


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_a_cameras_exif_folders_survive(tmp_path: Path, suffix: str, bits: int) -> None:
    exif = Image.Exif()
    exif[315], exif[282], exif[0x8769], exif[0x8825] = "somebody", 72.0, {0x829A: 0.01, 0x9003: "2020:01:01 00:00:00"}, {1: "N"}
    write.write(photo(bits=bits, exif=exif.tobytes()), tmp_path / f"x.{suffix}")
    with Image.open(tmp_path / f"x.{suffix}") as image:
        kept = image.getexif()
        assert kept[315] == "somebody" and kept[282] == 72 and kept.get_ifd(0x8825) == {1: "N"}
        assert kept.get_ifd(0x8769) == {0x829A: 0.01, 0x9003: "2020:01:01 00:00:00"}
    assert b"somebody" in (read.read(tmp_path / f"x.{suffix}").meta.exif or b"")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_tifffile_and_libtiff_read_our_tiff(tmp_path: Path, channels: int, bits: int) -> None:
    height = 600  # several strips
    x = torch.rand(channels, height, 10, generator=torch.Generator().manual_seed(0))
    grey = channels < 3
    rgb = x[:1].repeat(3, 1, 1) if grey else x[:3]
    write.write(Photo(rgb, x[-1:] if channels in (2, 4) else None, Meta(bits=bits, grey=grey)), tmp_path / "x.tif")
    found = tifffile.imread(tmp_path / "x.tif")
    assert found.dtype.itemsize * 8 == bits and found.shape[:2] == (height, 10)
    again = read.read(tmp_path / "x.tif")
    top = 2**bits - 1
    assert np.abs((again.tensor[0] * top).numpy() - found.reshape(height, 10, -1)[..., 0]).max() < 0.01
    assert (again.tensor - rgb).abs().max() <= 0.51 / top


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_grey_stays_grey(tmp_path: Path, suffix: str) -> None:
    grey = photo(grey=True)
    write.write(grey, tmp_path / f"x.{suffix}")
    assert Image.open(tmp_path / f"x.{suffix}").mode == "L"


def test_alpha_is_kept_where_it_can_be_and_laid_on_white_elsewhere(tmp_path: Path) -> None:
    clear = Photo(torch.zeros(3, 8, 8), torch.zeros(1, 8, 8))
    for suffix in ("png", "webp", "tif"):
        write.write(clear, tmp_path / f"x.{suffix}")
        alpha = read.read(tmp_path / f"x.{suffix}").alpha
        assert alpha is not None and (alpha == 0).all(), suffix
    for suffix in ("jpg", "bmp"):
        write.write(clear, tmp_path / f"x.{suffix}")
        assert (read.read(tmp_path / f"x.{suffix}").tensor > 0.99).all(), suffix


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    write.write(photo(), tmp_path / "x.png")
    (tmp_path / "y").write_bytes(b"")
    assert stat.S_IMODE(os.stat(tmp_path / "x.png").st_mode) == stat.S_IMODE(os.stat(tmp_path / "y").st_mode)


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("there_before", [False, True])
def test_a_failing_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, there_before: bool
) -> None:
    path = tmp_path / "x.png"
    if there_before:
        path.write_bytes(b"old")

    def fails(photo: Photo, file_format: str, handle: io.BytesIO, quality: int) -> None:
        handle.write(b"half a picture")
        raise failure

    monkeypatch.setattr(write, "_encode", fails)
    with pytest.raises(WriteError if isinstance(failure, OSError) else KeyboardInterrupt) as caught:
        write.write(photo(), path)
    if isinstance(failure, OSError):
        assert "No space left" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == (["x.png"] if there_before else [])
    assert not there_before or path.read_bytes() == b"old"


def test_outputs_that_cannot_be_are_refused_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="suffix '.gif'; use one of"):
        write.write(photo(), tmp_path / "x.gif")
    with pytest.raises(WriteError, match="Is a directory"):
        (tmp_path / "d.png").mkdir()
        write.write(photo(), tmp_path / "d.png")
    with pytest.raises(WriteError, match="WEBP ends at 16383"):
        write.check_output(tmp_path / "x.webp", (10, 20_000))


# ------------------------------------------------------------------------------------------------- to_tensor and like


@pytest.mark.parametrize(
    "x",
    [
        noise(6, 8, 3),
        noise(6, 8),
        noise(6, 8, 1),
        noise(6, 8, 4) | SEEN,
        noise(6, 8, 3, dtype=np.uint16),
        np.random.default_rng(0).random((6, 8, 3)),
        np.random.default_rng(0).random((6, 8), dtype=np.float32),
        torch.rand(3, 6, 8),
        torch.rand(1, 6, 8),
        torch.rand(2, 3, 6, 8, dtype=torch.float64),
        torch.rand(2, 3, 6, 8).half(),
        (torch.rand(3, 6, 8) * 255).to(torch.uint8),
    ],
    ids=lambda x: f"{type(x).__name__}-{x.dtype}-{'x'.join(map(str, x.shape))}",
)
def test_arrays_and_tensors_come_back_as_they_were(x: np.ndarray | torch.Tensor) -> None:
    y = pictures.to_tensor(x)
    assert y.ndim == 4 and y.shape[1:] == (3, 6, 8) and y.dtype == torch.float32 and 0 <= y.min() and y.max() <= 1
    back = pictures.like(x, y)
    assert type(back) is type(x) and back.dtype == x.dtype and back.shape == x.shape
    if isinstance(x, np.ndarray):
        assert np.abs(back.astype(np.float64) - x.astype(np.float64)).max() <= (1 if x.dtype.kind == "u" else 1e-6)
    else:
        assert (back.double() - x.double()).abs().max() <= (0 if x.dtype == torch.uint8 else 1e-3)
    big = pictures.like(x, y.repeat_interleave(4, -1).repeat_interleave(4, -2))
    assert big.shape == tuple(s * 4 if s in (6, 8) else s for s in x.shape)


@pytest.mark.parametrize(
    ("mode", "back"),
    [("1", "L"), ("L", "L"), ("LA", "LA"), ("P", "RGB"), ("RGB", "RGB"), ("RGBA", "RGBA"), ("CMYK", "RGB"), ("F", "F"),
     ("I;16", "I;16")],
)  # fmt: skip
def test_pil_images_come_back_as_their_mode(mode: str, back: str) -> None:
    source = Image.fromarray(noise(6, 8, 4) | SEEN)
    if mode == "F":
        x = Image.fromarray(np.random.default_rng(0).random((6, 8), dtype=np.float32))
    elif mode == "I;16":
        x = Image.fromarray(noise(6, 8, dtype=np.uint16))
    else:
        x = source.convert("RGB").convert(mode) if mode == "CMYK" else source.convert(mode)
    y = pictures.to_tensor(x)
    assert y.shape == (1, 3, 6, 8)
    same = pictures.like(x, y)
    assert same.mode == back and same.size == x.size
    if mode == back:
        assert np.abs(np.asarray(same).astype(float) - np.asarray(x).astype(float)).max() <= 1
    assert pictures.like(x, torch.rand(1, 3, 24, 32)).size == (32, 24)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pil_image_is_turned_as_a_file_is(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(smooth(16, 24)).save(tmp_path / "x.png", exif=exif.tobytes())
    image = Image.open(tmp_path / "x.png")
    tensor = pictures.to_tensor(image)
    assert torch.equal(tensor[0], read.read(tmp_path / "x.png").tensor)
    back = pictures.like(image, tensor)
    assert back.size == ImageOps.exif_transpose(image).size and 0x0112 not in back.getexif()


@pytest.mark.parametrize(
    ("x", "kind", "said"),
    [
        (torch.full((3, 4, 4), float("nan")), ValueError, "from nan to nan, needed"),
        (torch.full((3, 4, 4), 200.0), ValueError, r"200 to 200, needed \[0, 1\]; divide by 255"),
        (torch.full((3, 4, 4), -0.5), ValueError, r"-0.5 to -0.5, needed \[0, 1\]"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), ValueError, "dtype int64, needed uint8"),
        (torch.zeros(4, 4, 3), ValueError, r"shape \(4, 4, 3\), needed \(3, H, W\)"),
        (torch.zeros(3, 0, 4), ValueError, "at least one pixel"),
        (np.zeros((3, 4, 5)), ValueError, r"shape \(3, 4, 5\), needed \(H, W\)"),
        (np.zeros((4, 4, 3), np.int32), ValueError, "dtype int32, needed uint8 or uint16"),
        (np.full((4, 4, 3), np.inf), ValueError, "from inf to inf"),
        ("photo.png", TypeError, "is a str, needed"),
    ],
)
def test_wrong_pictures_are_named(x: object, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        pictures.to_tensor(x)


def test_alpha_is_resized_with_the_picture() -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, 4:, 3] = 255
    big = pictures.like(rgba, torch.zeros(1, 3, 32, 32))
    assert big.shape == (32, 32, 4)
    assert (big[:, :12, 3] < 8).all() and (big[:, 20:, 3] > 247).all()
    opaque = pictures.resize(torch.ones(1, 5, 7), (20, 28))
    assert torch.allclose(opaque, torch.ones(1, 20, 28))


def test_several_images_do_not_fit_into_one_array() -> None:
    with pytest.raises(ValueError, match="holds 2 images, needed 1"):
        pictures.like(noise(4, 4, 3), torch.rand(2, 3, 4, 4))


def test_hidden_colours_do_not_reach_the_rim() -> None:
    y, x = np.mgrid[0:33, 0:40]
    alpha = np.clip(10.5 - np.hypot(x - 18, y - 16), 0, 1)
    rgba = np.dstack([np.where(alpha[..., None] > 0, [0.9, 0.7, 0.2], 0.0), alpha]).astype(np.float32)
    seen = pictures.to_tensor(rgba)
    assert torch.allclose(seen, torch.tensor([0.9, 0.7, 0.2]).view(1, 3, 1, 1).expand(1, 3, 33, 40), atol=1e-6)
    shown = torch.from_numpy(alpha > 0)
    mixed = pictures.from_pixels(noise(33, 40, 4) | SEEN)
    assert torch.equal(mixed.visible(), mixed.tensor), "nothing is hidden wholly"
    half = Photo(mixed.tensor, shown[None].float())
    assert torch.equal(half.visible()[:, shown], mixed.tensor[:, shown]), "what is seen stays as it is"
    assert half.visible().min() >= 0 and half.visible().max() <= 1
    hidden = Photo(mixed.tensor, torch.zeros(1, 33, 40))
    assert torch.equal(hidden.visible(), mixed.tensor) and hidden.visible() is hidden.tensor
