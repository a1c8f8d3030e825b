"""Files to pictures: any usual image file becomes a `Photo`, and whatever is wrong with one an `ImageError` of one line."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from itersr import pictures
from itersr.disk import FileError, listed, shown
from itersr.pictures import Photo

log = logging.getLogger(__name__)

MAX_PIXELS = 100_000_000
"""Largest picture that `read` decodes unless told otherwise: a few kilobytes of PNG can claim gigabytes of pixels."""

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm"})
OTHERS = frozenset(".heic .heif .hif .avif .jxl .jp2 .psd .xcf .exr .hdr .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf".split())
"""Suffixes of pictures that are not read here: `image_files` tells that it leaves such files out."""

# EXIF fields that stay true of an enlarged picture: who, when, with what, where. Orientation is applied, sizes would be wrong.
_EXIF_KEPT = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432)
_EXIF_FOLDERS = {0x8769: (0xA002, 0xA003, 0xA005), 0x8825: ()}  # Exif (without pixel sizes), GPS
_BITS, _PLANES, _EXTRA = 258, 284, 338  # TIFF tags


class ImageError(FileError):
    """An input that cannot be used."""


def image_files(path: str | os.PathLike[str]) -> list[Path]:
    """Every image file below a folder, subfolders included, sorted by path; hidden files and folders are left out.

    One warning names pictures in other formats, linked folders, and what cannot be opened: these are left out too.

    Raises:
        ImageError: not a folder, or no image file in it.
    """
    root = Path(path)
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        raise ImageError(root, what, "name a folder with images")
    found: list[Path] = []
    left_out: list[Path] = []
    locked: list[OSError] = []
    for place, folders, names in os.walk(root, onerror=locked.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        left_out += [Path(place, name) for name in folders if os.path.islink(Path(place, name))]
        for file in (Path(place, name) for name in names if not name.startswith(".")):
            if file.suffix.lower() in SUFFIXES | OTHERS:
                known = file.suffix.lower() in SUFFIXES and os.path.isfile(file)  # unlike Path.is_file, it never raises
                (found if known else left_out).append(file)
    left_out += [Path(error.filename) for error in locked]
    if left_out:
        what = listed(sorted(file.relative_to(root) for file in left_out))
        log.warning("%s: %d left out (another format, a link or unreadable): %s", shown(root), len(left_out), what)
    if not found:
        raise ImageError(root, "holds no image file", "put " + ", ".join(sorted(SUFFIXES)) + " files into it")
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())


def read(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Photo:
    """Read one image file as a `Photo`.

    PNG, JPEG, WebP, TIFF, BMP, GIF (first frame) and PPM; 1, 8 and 16 bit, grey, RGB, palette, CMYK, Lab, each with alpha where
    the format has it. EXIF orientation is applied. ICC profiles of RGB and grey pictures are kept, pixels untouched; CMYK and
    Lab become sRGB through their profile.

    Args:
        path: the file.
        max_pixels: refuse larger pictures (width × height) before they are decoded.

    Raises:
        ImageError: missing, a folder, unreadable, empty, not an image, truncated or damaged, or larger than `max_pixels`.
    """
    data = _content(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters becomes an ImageError or a note
        try:
            image = _open(data)
        except Exception as error:
            unknown = isinstance(error, Image.UnidentifiedImageError)
            what = "is not an image in a format known here" if unknown else "is damaged"
            raise ImageError(path, what, "use a whole PNG, JPEG, WebP, TIFF, BMP, GIF or PPM file") from error
        width, height = image.size
        if width * height > max_pixels:
            what = f"has {width}×{height} = {width * height:,} pixels, more than the limit of {max_pixels:,}"
            raise ImageError(path, what, "if it is meant to be so large, raise the limit (--max-pixels)")
        try:
            return _decode(data, image)
        except MemoryError as error:
            what = f"needs more memory than there is ({width}×{height})"
            raise ImageError(path, what, "cut it into parts") from error
        except Exception as error:
            # Decoders meet hostile bytes here; Pillow raises OSError, SyntaxError, ValueError, struct.error and more.
            what = f"cannot be decoded ({str(error) or type(error).__name__})"
            raise ImageError(path, what, "the file is truncated or damaged: get it again") from error


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ImageError(path, "does not exist", "check the name") from error
    except IsADirectoryError as error:
        raise ImageError(path, "is a folder", "name an image file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(path, f"cannot be read ({reason})", "check the file and its permissions") from error
    if not data:
        raise ImageError(path, "is empty (0 bytes)", "get the file again")
    return data


_limit = threading.Lock()


def _open(data: bytes) -> Any:
    """The Pillow image, header only. Pillow's own limit of pixels is one global number; ours is an argument of `read`."""
    with _limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _decode(data: bytes, image: Any) -> Photo:
    """Pixels and meta of a freshly opened (not yet loaded) Pillow image."""
    notes: list[str] = []
    stored_turn = pictures.orientation(image)
    exif = _exif(image, notes)
    with contextlib.suppress(Exception):
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # MPO: a phone's JPEG with another picture behind it
            notes.append(f"{image.n_frames} frames or pages: only the first is used")
            image.seek(0)
    with _silence:
        image.load()  # a truncated file fails here, whichever decoder makes the pixels
        photo = _deep_photo(data, image, stored_turn, notes) or pictures.from_pil(image, notes)
    return replace(photo, meta=replace(photo.meta, exif=exif, notes=tuple(notes)))


def _deep_photo(data: bytes, image: Any, stored_turn: int, notes: list[str]) -> Photo | None:
    """The picture in a file with several channels of 16 bits, of which Pillow keeps 8; None for all other files.

    What neither OpenCV nor tifffile reads is left to Pillow's 8 bits, with a note.
    """
    tags = getattr(image, "tag_v2", {})
    bits = data[24] if image.format == "PNG" else max(tags.get(_BITS, (8,)))  # PNG: length, name, width, height, bits, colour
    if bits != 16 or image.mode not in ("LA", "RGB", "RGBA"):
        return None
    bands = len(image.getbands())
    try:
        if tags.get(_EXTRA) == (1,):
            raise ValueError("colours multiplied with alpha")
        decoded: Any
        if tags.get(_PLANES) == 2:  # channel after channel, which OpenCV takes for pixel after pixel
            import tifffile

            decoded = np.moveaxis(tifffile.imread(io.BytesIO(data), key=0), 0, -1)
            order, turn = list(range(bands)), stored_turn
        else:
            import cv2

            # Blue comes first, grey three times. OpenCV turns a TIFF while it reads it, as Pillow does, but no PNG.
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            order = [0, 3] if image.format == "PNG" and data[25] == 4 else [2, 1, 0, 3][:bands]
            turn = pictures.orientation(image)
        if decoded is None or decoded.dtype != np.uint16:
            raise ValueError("stored in an unknown way")
        pixels = decoded[..., order]
        if "transparency" in image.info:
            pixels = pictures.with_clear(pixels[..., :3], image.info["transparency"])
        return pictures.from_pixels(pixels, turn, image.info.get("icc_profile"))
    except Exception as error:
        notes.append(f"16 bit {image.format} read with 8 bits ({' '.join(str(error).split())})")
        return None


def _exif(image: Any, notes: list[str]) -> bytes | None:
    """The EXIF fields worth keeping."""
    try:
        found, kept = image.getexif(), Image.Exif()
        for tag in _EXIF_KEPT:
            if tag in found and not str(found[tag]).startswith('{"shape": '):  # tifffile's description: the old size
                kept[tag] = found[tag]
        for tag, stale in _EXIF_FOLDERS.items():
            inside = {key: value for key, value in found.get_ifd(tag).items() if key not in stale}
            if inside:
                kept[tag] = inside
        return kept.tobytes() if len(kept) else None
    except Exception:  # EXIF written by broken tools is common; the picture is still good
        notes.append("damaged EXIF data left out")
        return None


class _Silence:
    """libtiff and libpng print what they find wrong straight to the process's stderr; the ImageError says it once.

    Photos are read by several threads: the first one in takes stderr away, and the last one out brings it back.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.kept = threading.Lock(), 0, -1

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                if sys.stderr is not None:
                    sys.stderr.flush()
                try:
                    self.kept = os.dup(2)
                except OSError:  # there is no stderr
                    self.kept = -1
                    return
                with open(os.devnull, "w") as nowhere:
                    os.dup2(nowhere.fileno(), 2)

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside and self.kept >= 0:
                os.dup2(self.kept, 2)
                os.close(self.kept)
                self.kept = -1


_silence = _Silence()
