"""The table of datasets: what the paper trains and tests on, where it is, and what it should weigh.

A checksum stands here only where someone has published it (for DIV2K: the TensorFlow Datasets catalogue). For the others
`sha256` is None.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """One file to download. All `addresses` must give the same bytes; they are tried in turn.

    `size` (bytes) and `sha256` are None where nobody published them.
    """

    file: str
    addresses: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Dataset:
    """`archives` are alternatives that hold the same images packed in different ways: the first that can be had is used.
    `take` names what to keep: (folder, pattern) pairs; the pattern is matched against the whole path inside the archive
    and the text of its groups, joined by "_", names the image. `kind` is what is made: "patches" for training, "images"
    for a test set kept whole, "pairs" for a test set degraded here. `by_hand` says where a person finds the archive.
    """

    name: str
    title: str
    kind: str
    archives: tuple[Archive, ...]
    take: tuple[tuple[str, str], ...]
    images: int
    by_hand: str
    licence: str
    citation: str


def _drive(file_id: str) -> tuple[str]:
    return (f"https://drive.usercontent.google.com/download?id={file_id}&export=download&confirm=t",)


def _both(address: str) -> tuple[str, str]:
    return f"https://{address}", f"http://{address}"


_ETH = "data.vision.ee.ethz.ch/cvl/DIV2K"
_HUB = "https://huggingface.co/datasets"
_OPENMMLAB = "https://openmmlab.oss-cn-hangzhou.aliyuncs.com/datasets"
_SWINIR = "https://github.com/JingyunLiang/SwinIR/releases/download/v0.0"
_DIV2K_PAPER = "Agustsson and Timofte, NTIRE 2017 Challenge on Single Image Super-Resolution: Dataset and Study, CVPRW 2017"
_DIV2K_LICENCE = "academic research only; the images belong to their photographers"
_REALSRSET = (
    "Lincoln|building|butterfly|butterfly2|chip|comic1|comic2|comic3|computer|dog|dped_crop00061|foreman|frog|"
    "oldphoto2|oldphoto3|oldphoto6|painting|pattern|ppt3|tiger"
)

TABLE: tuple[Dataset, ...] = (
    Dataset(
        name="div2k", title="DIV2K, training part", kind="patches",
        archives=(
            Archive("DIV2K_train_HR.zip", (*_both(f"{_ETH}/DIV2K_train_HR.zip"),
                                         f"{_HUB}/goodfellowliu/DIV2K/resolve/main/DIV2K_train_HR.zip"), size=3_530_603_713,
                    sha256="9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335"),
        ),
        take=(("hq", r"(?:.*/)?DIV2K_train_HR/(\d{4})\.png"),),
        images=800, by_hand="https://data.vision.ee.ethz.ch/cvl/DIV2K/ (Train Data, HR images)",
        licence=_DIV2K_LICENCE,
        citation=_DIV2K_PAPER,
    ),
    Dataset(
        name="flickr2k", title="Flickr2K", kind="patches",
        archives=(
            Archive("Flickr2K.tar", _both("cv.snu.ac.kr/research/EDSR/Flickr2K.tar")),
            Archive("Flickr2K.zip", (f"{_HUB}/goodfellowliu/Flickr2K/resolve/main/Flickr2K.zip",)),
        ),
        take=(("hq", r"(?:.*/)?Flickr2K(?:_HR)?/(\d{6})\.png"),),
        images=2650, by_hand="https://github.com/LimBee/NTIRE2017 (Flickr2K.tar)",
        licence="research only; the photos belong to their Flickr authors",
        citation="Lim et al., Enhanced Deep Residual Networks for Single Image Super-Resolution, CVPRW 2017",
    ),
    Dataset(
        name="ost", title="OutdoorSceneTraining", kind="patches",
        archives=(
            Archive("OST_dataset.zip", (f"{_OPENMMLAB}/OST_dataset.zip",)),
            Archive("OST.zip", (f"{_HUB}/goodfellowliu/OST/resolve/main/OST.zip",)),
            Archive("OutdoorSceneTrain_v2.zip", ()),  # the folder that the authors' seven zip files leave
        ),
        # Seven categories of photos; OutdoorSceneTest and OutdoorSeg, which are published beside them, are left out.
        take=(("hq", r"(?!.*(?:[Tt]est|OST300|OutdoorSeg))(?:.*/)?([^/]+)/([^/]+)\.(?:png|jpg|jpeg)"),),
        images=10_324,
        by_hand="https://github.com/xinntao/SFTGAN#ost-dataset (OutdoorSceneTrain_v2, packed as one zip or unpacked)",
        licence="academic research only; the photos belong to their authors",
        citation="Wang et al., Recovering Realistic Texture in Image Super-resolution by Deep Spatial Feature Transform, "
                 "CVPR 2018",
    ),
    Dataset(
        name="realsr", title="RealSR version 3, test part, ×4", kind="images",
        archives=(Archive("RealSR(V3).tar.gz", _drive("17ZMjo-zwFouxnm_aFM6CUHBwgRrLZqIM")),),
        take=(
            ("hq", r"(?:.*/)?(?:Canon|Nikon)/Test/4/([^/]+)_HR\.png"),
            ("lq", r"(?:.*/)?(?:Canon|Nikon)/Test/4/([^/]+)_LR4\.png"),
        ),
        images=200, by_hand="https://github.com/csjcai/RealSR (Version 3)",
        licence="none stated; academic research",
        citation="Cai et al., Toward Real-World Single Image Super-Resolution: A New Benchmark and A New Model, ICCV 2019",
    ),
    Dataset(
        name="drealsr", title="DRealSR, test part, ×4", kind="images",
        # Published as a shared folder, which has no address for a program. An unpacked folder is taken as well.
        archives=(Archive("DRealSR_Test_x4.zip", ()),),
        take=(
            ("hq", r"(?:.*/)?(?:test_HR|HR)/([^/]+?)(?:_x4)?\.png"),
            ("lq", r"(?:.*/)?(?:test_LR|LR)/([^/]+?)(?:_x1)?\.png"),
        ),
        images=186,
        by_hand=(
            "https://github.com/xiezw5/Component-Divide-and-Conquer-for-Real-World-Image-Super-Resolution "
            "(Test_x4, unpacked into a folder named DRealSR_Test_x4 with test_HR and test_LR)"
        ),
        licence="none stated; academic research",
        citation="Wei et al., Component Divide-and-Conquer for Real-World Image Super-Resolution, ECCV 2020",
    ),
    Dataset(
        name="dped-iphone", title="DPED-iphone, the 100 test crops of NTIRE 2020", kind="images",
        archives=(Archive("DPEDiphone-crop-te-x.zip", _drive("19zlofWRxkhsjf_TuRA2oI9jgozifGvxp")),),
        take=(("lq", r"(?:.*/)?([^/]+)\.png"),),
        images=100, by_hand="https://github.com/jixiaozhong/RealSR (DPEDiphone-crop-te-x)",
        licence="academic research only",
        citation=(
            "Ignatov et al., DSLR-Quality Photos on Mobile Devices with Deep Convolutional Networks, ICCV 2017; "
            "Lugmayr et al., NTIRE 2020 Challenge on Real-World Image Super-Resolution, CVPRW 2020"
        ),
    ),
    Dataset(
        name="realsrset", title="RealSRSet", kind="images",
        archives=(Archive("RealSRSet+5images.zip", (f"{_SWINIR}/RealSRSet+5images.zip",)),),
        take=(("lq", rf"(?:.*/)?({_REALSRSET})\.png"),),  # without the five images added later
        images=20, by_hand="https://github.com/cszn/BSRGAN (testsets/RealSRSet)",
        licence="academic research; images from several sources",
        citation="Zhang et al., Designing a Practical Degradation Model for Deep Blind Image Super-Resolution, ICCV 2021",
    ),
    Dataset(
        name="div2k-synthetic", title="DIV2K validation part, degraded here, ×4", kind="pairs",
        archives=(
            Archive("DIV2K_valid_HR.zip", (*_both(f"{_ETH}/DIV2K_valid_HR.zip"),
                                         f"{_HUB}/eugenesiow/Div2k/resolve/main/DIV2K_valid_HR.zip"), size=448_993_893,
                    sha256="20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc"),
        ),
        take=(("hq", r"(?:.*/)?DIV2K_valid_HR/(\d{4})\.png"),),
        images=100, by_hand="https://data.vision.ee.ethz.ch/cvl/DIV2K/ (Validation Data, HR images)",
        licence=_DIV2K_LICENCE,
        citation=_DIV2K_PAPER,
    ),
)
