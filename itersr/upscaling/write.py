"""Writing: pictures to files, whole or not at all."""

from __future__ import annotations

import logging
import os
import zlib
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from PIL import TiffImagePlugin as tiff
from PIL.PngImagePlugin import putchunk
from PIL.TiffTags import TAGS_V2_GROUPS

from itersr import pictures
from itersr.disk import WriteError, shown, whole_file
from itersr.pictures import Photo

log = logging.getLogger(__name__)

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF",
            ".bmp": "BMP"}
_ROWS = 256  # of a strip of TIFF
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}  # in pixels; JPEG's is that of its library
_MOST_EXIF = {"JPEG": 65_533}  # bytes


def check_output(path: str | os.PathLike[str], size: tuple[int, int] = (1, 1), exif: bytes | None = None) -> str:
    """The format that `write` will use for `path`; worth asking before a long computation.

    WriteError for an unknown suffix, and a `size` (height, width) or `exif` beyond what the format holds.
    """
    target, cure = Path(path), "write PNG or TIFF (--ext png)"
    name = SUFFIXES.get(target.suffix.lower())
    if name is None:
        raise WriteError(target, f"has the suffix {target.suffix!r}", "use one of " + ", ".join(SUFFIXES))
    if max(size) > (longest := _LONGEST_SIDE.get(name, max(size))):
        raise WriteError(target, f"would be {size[1]}×{size[0]}, {name} ends at {longest}", cure)
    if exif is not None and len(exif) > (most := _MOST_EXIF.get(name, len(exif))):
        raise WriteError(target, f"would hold {len(exif):,} bytes of EXIF, {name} ends at {most:,}", cure)
    return name


def write(photo: Photo, path: str | os.PathLike[str], quality: int = 95) -> None:
    """Write a photo; the format follows the suffix (png, jpg, jpeg, webp, tif, tiff, bmp), and an existing file is replaced.

    Values are clipped to [0, 1]. 16 bit stays 16 bit in PNG and TIFF and becomes 8 bit elsewhere; grey stays grey; ICC and EXIF
    are kept where the format has room. JPEG and BMP have no alpha: the picture is laid on white there. `quality`, 1 to 100, is
    that of JPEG (4:4:4) and WebP. WriteError for what `check_output` refuses, an unwritable folder and a full disk.
    """
    file_format = check_output(path, photo.size, photo.meta.exif)
    if photo.alpha is not None and file_format in ("JPEG", "BMP"):
        log.warning("%s: %s has no alpha, the picture is laid on white", shown(path), file_format)
        photo = replace(photo, tensor=photo.tensor.clamp(0, 1) * photo.alpha + (1 - photo.alpha), alpha=None)
    with whole_file(Path(path)) as handle:
        _encode(photo, file_format, handle, quality)


def _encode(photo: Photo, file_format: str, handle: IO[bytes], quality: int) -> None:
    deep = photo.meta.bits == 16 and file_format in ("PNG", "TIFF")
    # WebP knows no grey, and few programs open 16 bit grey with alpha: such pictures are written as RGB and RGBA.
    if file_format == "WEBP" or (deep and photo.alpha is not None):
        photo = replace(photo, meta=replace(photo.meta, grey=False))
    exif, icc = photo.meta.exif, photo.meta.icc if pictures.profile_fits(photo.meta.icc, photo.meta.grey) else None
    pixels = pictures.to_pixels(photo, np.uint16 if deep else np.uint8)
    if file_format == "TIFF":
        _write_tiff(handle, pixels, icc, exif)
    elif deep and not photo.meta.grey:
        _write_png16(handle, pixels, icc, exif)
    else:
        # Each format takes its own: subsampling 0 is JPEG's 4:4:4, exact keeps WebP's colours where they are transparent.
        options: dict[str, Any] = {"quality": quality, "subsampling": 0, "exact": True}
        options |= {name: value for name, value in (("icc_profile", icc), ("exif", exif)) if value is not None}
        pictures.to_pil(pixels).save(handle, format=file_format, **options)


def _write_png16(handle: IO[bytes], pixels: np.ndarray, icc: bytes | None, exif: bytes | None) -> None:
    """A 16 bit PNG with colour: Pillow writes none, and OpenCV writes neither profile nor EXIF."""
    import cv2

    encoded = cv2.imencode(".png", pixels[..., [2, 1, 0, 3][: pixels.shape[2]]])[1].tobytes()  # OpenCV begins with blue
    header = 33  # bytes of the signature and the first chunk, after which the others may stand
    handle.write(encoded[:header])
    if icc is not None:
        putchunk(handle, b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
    if exif is not None:
        putchunk(handle, b"eXIf", exif.removeprefix(b"Exif\0\0"))
    handle.write(encoded[header:])


def _write_tiff(handle: IO[bytes], pixels: np.ndarray, icc: bytes | None, exif: bytes | None) -> None:
    """A deflated TIFF from (H, W, C) uint8 or uint16, with the folders of EXIF, which neither libtiff nor tifffile writes.

    Pillow writes what stands before the pixels, and moves the places of the strips behind it.
    """
    height, width, channels = pixels.shape
    pixels = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
    strips = [zlib.compress(pixels[row : row + _ROWS].tobytes()) for row in range(0, height, _ROWS)]
    sizes = [len(strip) for strip in strips]
    tags, kept = tiff.ImageFileDirectory_v2(), Image.Exif()
    kept.load(exif or b"")
    for tag in kept:
        tags[tag] = kept.get_ifd(tag) if tag in TAGS_V2_GROUPS else kept[tag]
    tags[tiff.IMAGEWIDTH], tags[tiff.IMAGELENGTH] = width, height
    tags[tiff.BITSPERSAMPLE], tags[tiff.SAMPLESPERPIXEL] = (pixels.itemsize * 8,) * channels, channels
    tags[tiff.PHOTOMETRIC_INTERPRETATION] = 1 if channels < 3 else 2  # 0 is black; RGB
    if channels in (2, 4):
        tags[tiff.EXTRASAMPLES] = 2  # alpha, not multiplied in
    tags[tiff.COMPRESSION], tags[tiff.ROWSPERSTRIP] = 8, _ROWS  # deflate
    tags[tiff.STRIPOFFSETS], tags[tiff.STRIPBYTECOUNTS] = (0, *accumulate(sizes[:-1])), tuple(sizes)
    if icc is not None:
        tags[tiff.ICCPROFILE] = icc
    tags.save(handle)
    handle.writelines(strips)
