"""Pictures to files, whole or not at all."""

from __future__ import annotations

import errno
import logging
import os
import struct
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
from itersr.disk import WriteError, whole_file
from itersr.pictures import Photo

log = logging.getLogger(__name__)

SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
_CHUNK = 1 << 20  # bytes of a chunk of PNG
_ROWS = 256  # of a strip of TIFF
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}  # in pixels; JPEG's is that of its library


def check_output(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> str:
    """The format that `write` will use for `path`; worth asking before a long computation.

    Raises:
        WriteError: unknown suffix, a folder where the file should go, no folder to write in, or `size` (height, width) beyond
        what the format holds.
    """
    target = Path(path)
    name = SUFFIXES.get(target.suffix.lower())
    if name is None:
        raise WriteError(target, f"has the suffix {target.suffix!r}", "use one of " + ", ".join(SUFFIXES))
    if target.is_dir():
        raise WriteError(target, "is a folder", "name a file")
    if not target.parent.is_dir():
        raise WriteError(target, f"has no folder {str(target.parent)!r} to lie in", "make that folder first")
    longest = _LONGEST_SIDE.get(name)
    if size is not None and longest is not None and max(size) > longest:
        what = f"would be {size[1]}×{size[0]}, {name} ends at {longest}"
        raise WriteError(target, what, "write PNG or TIFF (--ext png)")
    return name


def write(photo: Photo, path: str | os.PathLike[str], quality: int = 95) -> None:
    """Write a photo; the format follows the suffix (png, jpg, jpeg, webp, tif, tiff, bmp).

    16 bit stays 16 bit in PNG and TIFF and becomes 8 bit elsewhere; grey stays grey; ICC and EXIF are kept where the format has
    room. JPEG and BMP have no alpha: the picture is laid on white there.

    Args:
        photo: what to write; values are clipped to [0, 1].
        path: where; an existing file is replaced.
        quality: of JPEG (4:4:4) and WebP, 1 to 100.

    Raises:
        WriteError: unknown suffix, unwritable folder, full disk, too large for the format.
    """
    file_format = check_output(path, photo.size)
    with whole_file(Path(path)) as handle:
        _encode(photo, file_format, handle, quality)


def _encode(photo: Photo, file_format: str, handle: IO[bytes], quality: int) -> None:
    if photo.alpha is not None and file_format in ("JPEG", "BMP"):
        log.warning("%s has no alpha: the picture is laid on white", file_format)
        photo = replace(photo, tensor=photo.tensor.clamp(0, 1) * photo.alpha + (1 - photo.alpha), alpha=None)
    deep = photo.meta.bits == 16 and file_format in ("PNG", "TIFF")
    # WebP knows no grey, and Pillow opens no 16 bit grey TIFF with alpha: such pictures are written as RGB and RGBA.
    if file_format == "WEBP" or (file_format == "TIFF" and deep and photo.alpha is not None):
        photo = replace(photo, meta=replace(photo.meta, grey=False))
    meta = photo.meta
    icc = meta.icc if pictures.profile_fits(meta.icc, meta.grey) else None
    pixels = pictures.to_pixels(photo, np.uint16 if deep else np.uint8)
    if file_format == "TIFF":
        return _write_tiff(handle, pixels, icc, meta.exif)
    if deep:
        return _write_png16(handle, pixels, icc, meta.exif)
    # Each format takes its own: subsampling 0 is JPEG's 4:4:4, exact keeps WebP's colours where they are transparent.
    options: dict[str, Any] = {"quality": quality, "subsampling": 0, "exact": True}
    options |= {name: value for name, value in (("icc_profile", icc), ("exif", meta.exif)) if value is not None}
    pictures.to_pil(pixels).save(handle, format=file_format, **options)


def _write_png16(handle: IO[bytes], pixels: np.ndarray, icc: bytes | None, exif: bytes | None) -> None:
    """A 16 bit PNG from (H, W, C) uint16: Pillow writes none with colour, OpenCV none that is grey with alpha."""
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").view(np.uint8).reshape(height, -1)
    # Each row begins with its filter: 2 = "Up", the difference to the row above (bytes, modulo 256), which deflates well.
    lines = np.full((height, 1 + rows.shape[1]), 2, np.uint8)
    lines[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=lines[1:, 1:])
    deflated = zlib.compress(lines.data, 6)
    handle.write(b"\x89PNG\r\n\x1a\n")
    putchunk(handle, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0))
    if icc is not None:
        putchunk(handle, b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
    if exif is not None:
        putchunk(handle, b"eXIf", exif.removeprefix(b"Exif\0\0"))
    for start in range(0, len(deflated), _CHUNK):
        putchunk(handle, b"IDAT", deflated[start : start + _CHUNK])
    putchunk(handle, b"IEND")


def _write_tiff(handle: IO[bytes], pixels: np.ndarray, icc: bytes | None, exif: bytes | None) -> None:
    """A deflated TIFF from (H, W, C) uint8 or uint16, with the folders of EXIF, which neither libtiff nor tifffile writes.

    Pillow writes what stands before the pixels, and moves the places of the strips behind it.
    """
    height, width, channels = pixels.shape
    pixels = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
    strips = [zlib.compress(pixels[row : row + _ROWS].tobytes()) for row in range(0, height, _ROWS)]
    sizes = [len(strip) for strip in strips]
    if sum(sizes) > 0xFFF00000:
        raise OSError(errno.EFBIG, "a TIFF ends at 4 GB")
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
