"""Fetch, verify, unpack and cut the datasets of the paper: `python -m data_prep NAME|all --root DIR`.

    datasets   the table: addresses, sizes, checksums, licences, citations
    download   resumable, from the first mirror that answers with the right bytes
    unpack     only the wanted images, under names made here
    patches    non-overlapping 256×256 patches
    prepare    the order of these steps, so that a stop at any moment leaves nothing that looks whole and is not
    pack       `python -m data_prep pack`: photos of one's own as WebP, within a given size
"""


class PrepError(Exception):
    """A dataset cannot be made; the message is one line that says what to do."""
