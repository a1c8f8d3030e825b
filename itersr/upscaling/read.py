"""Reading: any usual image file becomes a `Photo`, and whatever is wrong with one an `ImageError` of one line."""

from __future__ import annotations

import contextlib
import io
import logging
import os
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

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm"})
OTHERS = frozenset(".heic .heif .hif .avif .jxl .jp2 .psd .xcf .exr .hdr .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf".split())
"""Suffixes of pictures that are not read here: `image_files` warns that it leaves such files out."""

# EXIF fields that stay true of an enlarged picture: who, when, with what, where. Orientation is applied, sizes would be wrong.
_EXIF_KEPT = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432)
_EXIF_FOLDERS = {0x8769: (0xA002, 0xA003, 0xA005), 0x8825: ()}  # Exif (without pixel sizes), GPS
_BITS, _PLANES, _EXTRA, _KIND = 258, 284, 338, 339  # TIFF tags


class ImageError(FileError):
    """An input that cannot be used."""


def image_files(path: str | os.PathLike[str]) -> list[Path]:
    """Every image file below a folder, subfolders included, sorted by path; hidden files and folders are left out.

    One warning names pictures in other formats, linked folders, and what cannot be opened: these are left out too.
    ImageError where this is no folder, or no image file is in it.
    """
    root = Path(path)
    if not os.path.isdir(root):
        raise ImageError(root, "is not a folder", "name a folder with images")
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


def read(path: str | os.PathLike[str]) -> Photo:
    """Read one image file as a `Photo`.

    PNG, JPEG, WebP, TIFF, BMP, GIF (first frame) and PPM; 1, 8 and 16 bit, grey, RGB, palette, CMYK, Lab, each with alpha where
    the format has it. EXIF orientation is applied. ICC profiles of RGB and grey pictures are kept, pixels untouched; CMYK and
    Lab become sRGB through their profile.

    ImageError for a file that is missing, unreadable, no image, truncated or damaged, or has more pixels than Pillow opens (a
    few kilobytes of PNG can claim gigabytes of them): 179 million, twice `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    try:
        data = Path(path).read_bytes()
        with warnings.catch_warnings(action="ignore"):  # Pillow warns of odd metadata; what matters becomes an error or a note
            return _decode(data, Image.open(io.BytesIO(data), formats=FORMATS))
    except Image.UnidentifiedImageError as error:
        raise ImageError(path, "is not an image in a format known here", f"use a whole {', '.join(FORMATS)} file") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more for damaged files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(path, f"cannot be read ({reason})", "check the file, or save it anew in another program") from error


def _decode(data: bytes, image: Any) -> Photo:
    """Pixels and meta of a freshly opened (not yet loaded) Pillow image."""
    notes: list[str] = []
    stored = str(image.tile[0][3]) if image.tile else ""  # how Pillow names the pixels before it loads them: "RGB;16B", say
    with contextlib.suppress(Exception):
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # MPO: a phone's JPEG with another picture behind it
            notes.append(f"{image.n_frames} frames or pages: only the first is used")
            image.seek(0)
    tags = getattr(image, "tag_v2", {})
    deep = ";16" in stored or max(tags.get(_BITS, (8,))) == 16
    if deep and 2 in tags.get(_KIND, ()):
        raise ValueError("signed numbers of 16 bits")
    if tags.get(_PLANES) == 2 and (deep or image.mode in ("LA", "La")):  # Pillow reads only 8 bit RGB, RGBA and CMYK so
        raise ValueError("channel after channel")
    if stored in ("L;2", "L;4") and "transparency" in image.info:
        image.info["transparency"] *= {"L;2": 85, "L;4": 17}[stored]  # Pillow widens the pixels to 8 bits, and not this one
    image.load()  # a truncated file fails here, whichever decoder makes the pixels
    photo, exif = None, _exif(image, notes)
    if deep and image.mode in ("RGB", "RGBA"):  # of which Pillow keeps 8 bits
        try:
            photo = _deep_photo(data, image, stored)
        except Exception as error:
            notes.append(f"16 bit {image.format} read with 8 bits ({' '.join(str(error).split())})")
    elif image.mode in ("CMYK", "LAB"):
        notes.append(f"{image.mode} turned into sRGB")
    photo = photo or pictures.from_pil(image)
    return replace(photo, meta=replace(photo.meta, exif=exif, notes=tuple(notes)))


def _deep_photo(data: bytes, image: Any, stored: str) -> Photo:
    """The picture in a file with several channels of 16 bits, read by OpenCV."""
    import cv2

    if getattr(image, "tag_v2", {}).get(_EXTRA) == (1,):
        raise ValueError("colours multiplied with alpha")
    pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("stored in an unknown way")
    # Blue comes first, grey three times.
    pixels = pixels[..., [0, 3] if stored.startswith("LA") else [2, 1, 0, 3][: len(image.getbands())]]
    if "transparency" in image.info:  # the colour that is clear
        pixels = np.dstack([pixels[..., :3], (pixels[..., :3] != image.info["transparency"]).any(-1) * np.uint16(65535)])
    # OpenCV turns a TIFF while it reads it, as Pillow does, but no PNG.
    return pictures.from_pixels(pixels, pictures.orientation(image), image.info.get("icc_profile"))


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
