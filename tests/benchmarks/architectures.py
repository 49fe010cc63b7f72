"""Published families of networks as the names and shapes of their state dicts, with their heads.

Each is written down here in its registration order, in the sizes of its usual variant, and with
what a person who knows it would answer: the head's layers and the map that they read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fcn_convert.tensors import DTYPES, StateDict, TensorInfo

Map = tuple[int, ...]
Heads = tuple[tuple[Map, tuple[str, ...]], ...]


@dataclass
class Net:
    """A state dict in the making: each method registers a module."""

    shapes: dict[str, Map] = field(default_factory=dict)

    def conv(
        self, name: str, i: int, o: int, *kernel: int, groups: int = 1, bias: bool = True
    ) -> None:
        sizes = kernel if len(kernel) > 1 else kernel * 2
        self.shapes[f"{name}.weight"] = (o, i // groups, *sizes)
        if bias:
            self.shapes[f"{name}.bias"] = (o,)

    def bn(self, name: str, c: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.shapes[f"{name}.{part}"] = (c,)
        self.shapes[f"{name}.num_batches_tracked"] = ()

    def norm(self, name: str, c: int) -> None:
        self.shapes[f"{name}.weight"] = self.shapes[f"{name}.bias"] = (c,)

    def linear(self, name: str, i: int, o: int, *, bias: bool = True) -> None:
        self.shapes[f"{name}.weight"] = (o, i)
        if bias:
            self.shapes[f"{name}.bias"] = (o,)

    def conv_bn(self, name: str, i: int, o: int, *kernel: int, groups: int = 1) -> None:
        self.conv(f"{name}.0", i, o, *kernel, groups=groups, bias=False)
        self.bn(f"{name}.1", o)


@dataclass(frozen=True)
class Architecture:
    """A network, and its heads: the map that each reads, and its layers in forward order.

    decides: the orders in which names and shapes tell the map; in others, nothing must be stated.
    """

    name: str
    shapes: dict[str, Map]
    heads: Heads
    decides: tuple[str, ...]

    def state_dict(self, order: str, prefix: str = "") -> StateDict:
        """Return the index of a file that keeps the order of registration, or sorts the names."""
        names = list(self.shapes) if order == "registration" else sorted(self.shapes)
        tensors = {
            prefix + name: TensorInfo(prefix + name, DTYPES["F32"], self.shapes[name], 0)
            for name in names
        }
        return StateDict("", tensors)


Build = Callable[[Net], Heads]
REGISTRY: dict[str, Build] = {}
DECIDES: dict[str, tuple[str, ...]] = {}
EITHER = ("registration", "sorted")


def architecture(name: str, *, decides: tuple[str, ...] = EITHER) -> Callable[[Build], Build]:
    """Register a network by its name."""

    def register(build: Build) -> Build:
        REGISTRY[name] = build
        DECIDES[name] = decides
        return build

    return register


def every() -> Iterator[Architecture]:
    """Yield all of them."""
    for name, build in REGISTRY.items():
        net = Net()
        heads = build(net)
        yield Architecture(name, net.shapes, tuple(heads), DECIDES[name])


@architecture("alexnet")
def _(net: Net) -> Heads:
    for at, (i, o, k) in zip(
        (0, 3, 6, 8, 10),
        ((3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)),
        strict=True,
    ):
        net.conv(f"features.{at}", i, o, k)
    for at, i, o in ((1, 9216, 4096), (4, 4096, 4096), (6, 4096, 1000)):
        net.linear(f"classifier.{at}", i, o)
    return (((256, 6, 6), ("classifier.1", "classifier.4", "classifier.6")),)


PLAN = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


def _vgg(net: Net, head: str, *, norms: bool, prefix: str = "") -> Heads:
    at, i = 0, 3
    for width in PLAN:
        if width:
            net.conv(f"{prefix}features.{at}", i, width, 3)
            if norms:
                net.bn(f"{prefix}features.{at + 1}", width)
            at += 2 + norms
            i = width
        else:
            at += 1
    names = tuple(f"{prefix}{head}.{at}" for at in (0, 3, 6))
    for name, i, o in zip(names, (25088, 4096, 4096), (4096, 4096, 1000), strict=True):
        net.linear(name, i, o)
    return (((512, 7, 7), names),)


@architecture("vgg16")
def _(net: Net) -> Heads:
    return _vgg(net, "classifier", norms=False)


@architecture("vgg16 with batch norm")
def _(net: Net) -> Heads:
    return _vgg(net, "classifier", norms=True)


@architecture("vgg16 wrapped twice")
def _(net: Net) -> Heads:
    return _vgg(net, "head", norms=False, prefix="module.backbone.")


@architecture("lenet")
def _(net: Net) -> Heads:
    net.conv("conv1", 1, 6, 5)
    net.conv("conv2", 6, 16, 5)
    for name, i, o in (("fc1", 400, 120), ("fc2", 120, 84), ("fc3", 84, 10)):
        net.linear(name, i, o)
    return (((16, 5, 5), ("fc1", "fc2", "fc3")),)


@architecture("lenet with a pooled third convolution")
def _(net: Net) -> Heads:
    net.conv("c1", 1, 6, 5)
    net.conv("c3", 6, 16, 5)
    net.conv("c5", 16, 120, 5)
    net.linear("f6", 120, 84)
    net.linear("f7", 84, 10)
    return (((120, 1, 1), ("f6", "f7")),)


def _resnet(
    net: Net, blocks: Map, widths: Map, *, bottleneck: bool, se: bool = False, fc: str = "fc"
) -> Heads:
    net.conv("conv1", 3, 64, 7, bias=False)
    net.bn("bn1", 64)
    i = 64
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
        out = width * 4 if bottleneck else width
        for block in range(count):
            name = f"layer{stage}.{block}"
            steps = ((i, width, 1), (width, width, 3), (width, out, 1))
            for at, (a, b, k) in enumerate(steps if bottleneck else ((i, out, 3), (out, out, 3))):
                net.conv(f"{name}.conv{at + 1}", a, b, k, bias=False)
                net.bn(f"{name}.bn{at + 1}", b)
            if se:
                net.linear(f"{name}.se.fc.0", out, out // 16, bias=False)
                net.linear(f"{name}.se.fc.2", out // 16, out, bias=False)
            if i != out:
                net.conv_bn(f"{name}.downsample", i, out, 1)
            i = out
    net.linear(fc, i, 1000)
    return (((i, 1, 1), (fc,)),)


@architecture("resnet18")
def _(net: Net) -> Heads:
    return _resnet(net, (2, 2, 2, 2), (64, 128, 256, 512), bottleneck=False)


@architecture("resnet50")
def _(net: Net) -> Heads:
    return _resnet(net, (3, 4, 6, 3), (64, 128, 256, 512), bottleneck=True, fc="last_linear")


@architecture("se-resnet18 with Dense gates")
def _(net: Net) -> Heads:
    return _resnet(net, (2, 2, 2, 2), (64, 128, 256, 512), bottleneck=False, se=True)


@architecture("densenet121")
def _(net: Net) -> Heads:
    net.conv("features.conv0", 3, 64, 7, bias=False)
    net.bn("features.norm0", 64)
    c = 64
    for block, layers in enumerate((6, 12, 24, 16), start=1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            net.bn(f"{name}.norm1", c)
            net.conv(f"{name}.conv1", c, 128, 1, bias=False)
            net.bn(f"{name}.norm2", 128)
            net.conv(f"{name}.conv2", 128, 32, 3, bias=False)
            c += 32
        if block < 4:
            net.bn(f"features.transition{block}.norm", c)
            net.conv(f"features.transition{block}.conv", c, c // 2, 1, bias=False)
            c //= 2
    net.bn("features.norm5", c)
    net.linear("classifier", c, 1000)
    return (((1024, 1, 1), ("classifier",)),)


def _basic(net: Net, name: str, i: int, o: int, *kernel: int) -> None:
    net.conv(f"{name}.conv", i, o, *kernel, bias=False)
    net.bn(f"{name}.bn", o)


@architecture("googlenet with auxiliary heads")
def _(net: Net) -> Heads:
    _basic(net, "conv1", 3, 64, 7)
    _basic(net, "conv2", 64, 64, 1)
    _basic(net, "conv3", 64, 192, 3)
    i = 192
    for name, a, b, c, d, e, f in (
        ("inception3a", 64, 96, 128, 16, 32, 32),
        ("inception3b", 128, 128, 192, 32, 96, 64),
        ("inception4a", 192, 96, 208, 16, 48, 64),
        ("inception4b", 160, 112, 224, 24, 64, 64),
        ("inception4c", 128, 128, 256, 24, 64, 64),
        ("inception4d", 112, 144, 288, 32, 64, 64),
        ("inception4e", 256, 160, 320, 32, 128, 128),
        ("inception5a", 256, 160, 320, 32, 128, 128),
        ("inception5b", 384, 192, 384, 48, 128, 128),
    ):
        _basic(net, f"{name}.branch1", i, a, 1)
        _basic(net, f"{name}.branch2.0", i, b, 1)
        _basic(net, f"{name}.branch2.1", b, c, 3)
        _basic(net, f"{name}.branch3.0", i, d, 1)
        _basic(net, f"{name}.branch3.1", d, e, 3)
        _basic(net, f"{name}.branch4.1", i, f, 1)
        i = a + c + e + f
    for aux, c in (("aux1", 512), ("aux2", 528)):
        _basic(net, f"{aux}.conv", c, 128, 1)
        net.linear(f"{aux}.fc1", 2048, 1024)
        net.linear(f"{aux}.fc2", 1024, 1000)
    net.linear("fc", 1024, 1000)
    return (
        ((128, 4, 4), ("aux1.fc1", "aux1.fc2", "aux2.fc1", "aux2.fc2")),
        ((1024, 1, 1), ("fc",)),
    )


@architecture("inception with an auxiliary head")
def _(net: Net) -> Heads:
    for name, i, o in (("Conv2d_1a_3x3", 3, 32), ("Conv2d_2a_3x3", 32, 64)):
        _basic(net, name, i, o, 3)
    _basic(net, "Conv2d_4a_3x3", 64, 192, 3)
    _basic(net, "Mixed_6e.branch1x1", 192, 192, 1)
    _basic(net, "Mixed_6e.branch_pool", 192, 192, 1)
    _basic(net, "AuxLogits.conv0", 768, 128, 1)
    _basic(net, "AuxLogits.conv1", 128, 768, 5)
    net.linear("AuxLogits.fc", 768, 1000)
    for name, i in (("Mixed_7b", 1280), ("Mixed_7c", 2048)):
        _basic(net, f"{name}.branch1x1", i, 320, 1)
        _basic(net, f"{name}.branch3x3_1", i, 384, 1)
        _basic(net, f"{name}.branch3x3_2a", 384, 384, 1, 3)
        _basic(net, f"{name}.branch3x3_2b", 384, 384, 3, 1)
        _basic(net, f"{name}.branch3x3dbl_1", i, 448, 1)
        _basic(net, f"{name}.branch3x3dbl_2", 448, 384, 3)
        _basic(net, f"{name}.branch_pool", i, 192, 1)
    net.linear("fc", 2048, 1000)
    return (((768, 1, 1), ("AuxLogits.fc",)), ((2048, 1, 1), ("fc",)))


@architecture("mobilenet v2")
def _(net: Net) -> Heads:
    net.conv_bn("features.0", 3, 32, 3)
    i = 32
    for at, o in enumerate((16, 24, 24, 32, 32, 64, 96, 160, 320), start=1):
        hidden = i * 6
        net.conv_bn(f"features.{at}.conv.0", i, hidden, 1)
        net.conv_bn(f"features.{at}.conv.1", hidden, hidden, 3, groups=hidden)
        net.conv(f"features.{at}.conv.2", hidden, o, 1, bias=False)
        net.bn(f"features.{at}.conv.3", o)
        i = o
    net.conv_bn("features.18", 320, 1280, 1)
    net.linear("classifier.1", 1280, 1000)
    return (((1280, 1, 1), ("classifier.1",)),)


@architecture("mobilenet v3")
def _(net: Net) -> Heads:
    net.conv_bn("features.0", 3, 16, 3)
    i = 16
    for at, o in enumerate((16, 24, 40, 48, 96), start=1):
        hidden = i * 4
        net.conv_bn(f"features.{at}.block.0", i, hidden, 1)
        net.conv_bn(f"features.{at}.block.1", hidden, hidden, 5, groups=hidden)
        net.conv(f"features.{at}.block.2.fc1", hidden, hidden // 4, 1)
        net.conv(f"features.{at}.block.2.fc2", hidden // 4, hidden, 1)
        net.conv_bn(f"features.{at}.block.3", hidden, o, 1)
        i = o
    net.conv_bn("features.12", 96, 576, 1)
    net.linear("classifier.0", 576, 1024)
    net.linear("classifier.3", 1024, 1000)
    return (((576, 1, 1), ("classifier.0", "classifier.3")),)


@architecture("efficientnet")
def _(net: Net) -> Heads:
    net.conv("_conv_stem", 3, 32, 3, bias=False)
    net.bn("_bn0", 32)
    i = 32
    for at, o in enumerate((16, 24, 40, 80, 112, 192, 320)):
        hidden = i * 6
        net.conv(f"_blocks.{at}._expand_conv", i, hidden, 1, bias=False)
        net.bn(f"_blocks.{at}._bn0", hidden)
        net.conv(f"_blocks.{at}._depthwise_conv", hidden, hidden, 3, groups=hidden, bias=False)
        net.bn(f"_blocks.{at}._bn1", hidden)
        net.conv(f"_blocks.{at}._se_reduce", hidden, i // 4, 1)
        net.conv(f"_blocks.{at}._se_expand", i // 4, hidden, 1)
        net.conv(f"_blocks.{at}._project_conv", hidden, o, 1, bias=False)
        net.bn(f"_blocks.{at}._bn2", o)
        i = o
    net.conv("_conv_head", 320, 1280, 1, bias=False)
    net.bn("_bn1", 1280)
    net.linear("_fc", 1280, 1000)
    return (((1280, 1, 1), ("_fc",)),)


@architecture("shufflenet")
def _(net: Net) -> Heads:
    net.conv_bn("conv1", 3, 24, 3)
    i = 24
    for stage, o in ((2, 116), (3, 232), (4, 464)):
        for block in range(3):
            half = o // 2
            name = f"stage{stage}.{block}"
            if not block:
                net.conv_bn(f"{name}.branch1", i, half, 1)
            net.conv_bn(f"{name}.branch2", i if not block else half, half, 1)
        i = o
    net.conv_bn("conv5", 464, 1024, 1)
    net.linear("fc", 1024, 1000)
    return (((1024, 1, 1), ("fc",)),)


@architecture("convnext")
def _(net: Net) -> Heads:
    net.conv("features.0.0", 3, 96, 4)
    net.norm("features.0.1", 96)
    for stage, c in ((1, 96), (3, 192), (5, 384), (7, 768)):
        if stage > 1:
            net.norm(f"features.{stage - 1}.0", c // 2)
            net.conv(f"features.{stage - 1}.1", c // 2, c, 2)
        for block in range(3):
            name = f"features.{stage}.{block}"
            net.shapes[f"{name}.layer_scale"] = (c, 1, 1)
            net.conv(f"{name}.block.0", c, c, 7, groups=c)
            net.norm(f"{name}.block.2", c)
            net.linear(f"{name}.block.3", c, 4 * c)
            net.linear(f"{name}.block.5", 4 * c, c)
    net.norm("classifier.0", 768)
    net.linear("classifier.2", 768, 1000)
    return (((768, 1, 1), ("classifier.2",)),)


@architecture("regnet")
def _(net: Net) -> Heads:
    net.conv_bn("stem", 3, 32, 3)
    i = 32
    for stage, o in enumerate((48, 104, 208, 440), start=1):
        for block in range(2):
            name = f"trunk_output.block{stage}.block{stage}-{block}"
            if not block:
                net.conv_bn(f"{name}.proj", i, o, 1)
            net.conv_bn(f"{name}.f.a", i, o, 1)
            net.conv_bn(f"{name}.f.b", o, o, 3, groups=8)
            net.conv(f"{name}.f.se.fc1", o, i // 4, 1)
            net.conv(f"{name}.f.se.fc2", i // 4, o, 1)
            net.conv_bn(f"{name}.f.c", o, o, 1)
            i = o
    net.linear("fc", 440, 1000)
    return (((440, 1, 1), ("fc",)),)


def _transformer_block(net: Net, name: str, d: int) -> None:
    net.norm(f"{name}.norm1", d)
    net.linear(f"{name}.attn.qkv", d, 3 * d)
    net.linear(f"{name}.attn.proj", d, d)
    net.norm(f"{name}.norm2", d)
    net.linear(f"{name}.mlp.fc1", d, 4 * d)
    net.linear(f"{name}.mlp.fc2", 4 * d, d)


@architecture("swin")
def _(net: Net) -> Heads:
    net.conv("patch_embed.proj", 3, 96, 4)
    net.norm("patch_embed.norm", 96)
    d = 96
    for stage in range(4):
        for block in range(2):
            name = f"layers.{stage}.blocks.{block}"
            net.shapes[f"{name}.attn.relative_position_bias_table"] = (169, d // 32)
            _transformer_block(net, name, d)
        if stage < 3:
            net.linear(f"layers.{stage}.downsample.reduction", 4 * d, 2 * d, bias=False)
            net.norm(f"layers.{stage}.downsample.norm", 4 * d)
            d *= 2
    net.norm("norm", d)
    net.linear("head", d, 1000)
    return (((768, 1, 1), ("head",)),)


@architecture("vit")
def _(net: Net) -> Heads:
    net.shapes["cls_token"] = (1, 1, 768)
    net.shapes["pos_embed"] = (1, 197, 768)
    net.conv("patch_embed.proj", 3, 768, 16)
    for block in range(12):
        _transformer_block(net, f"blocks.{block}", 768)
    net.norm("norm", 768)
    net.linear("head", 768, 1000)
    return (((768, 1, 1), ("head",)),)


@architecture("vit with packed attention")
def _(net: Net) -> Heads:
    net.conv("conv_proj", 3, 384, 16)
    for block in range(6):
        name = f"encoder.layers.encoder_layer_{block}"
        net.norm(f"{name}.ln_1", 384)
        net.shapes[f"{name}.self_attention.in_proj_weight"] = (1152, 384)
        net.shapes[f"{name}.self_attention.in_proj_bias"] = (1152,)
        net.linear(f"{name}.self_attention.out_proj", 384, 384)
        net.norm(f"{name}.ln_2", 384)
        net.linear(f"{name}.mlp.0", 384, 1536)
        net.linear(f"{name}.mlp.3", 1536, 384)
    net.norm("encoder.ln", 384)
    net.linear("heads.head", 384, 1000)
    return (((384, 1, 1), ("heads.head",)),)


@architecture("c3d", decides=())
def _(net: Net) -> Heads:
    plan = (("1", 3, 64), ("2", 64, 128), ("3a", 128, 256), ("3b", 256, 256), ("4a", 256, 512))
    for name, i, o in (*plan, ("4b", 512, 512), ("5a", 512, 512), ("5b", 512, 512)):
        net.conv(f"conv{name}", i, o, 3, 3, 3)
    for name, i, o in (("fc6", 8192, 4096), ("fc7", 4096, 4096), ("fc8", 4096, 487)):
        net.linear(name, i, o)
    return (((512, 1, 4, 4), ("fc6", "fc7", "fc8")),)


@architecture("a 1-D sequence net")
def _(net: Net) -> Heads:
    for at, (i, o) in enumerate(((9, 64), (64, 128), (128, 128))):
        net.shapes[f"convs.{3 * at}.weight"] = (o, i, 5)
        net.shapes[f"convs.{3 * at}.bias"] = (o,)
        net.bn(f"convs.{3 * at + 1}", o)
    net.linear("out.0", 2048, 100)
    net.bn("out.1", 100)
    net.linear("out.3", 100, 6)
    return (((128, 16), ("out.0", "out.3")),)


@architecture("a pitch net flattened H, C, W, with kernels along H only")
def _(net: Net) -> Heads:
    i = 1
    for at, (o, k) in enumerate(((128, 512), (16, 64), (16, 64), (16, 64), (32, 64), (64, 64))):
        net.conv(f"conv{at + 1}", i, o, k, 1)
        net.bn(f"conv{at + 1}_BN", o)
        i = o
    net.linear("classifier", 256, 360)
    return (((64, 4, 1), ("classifier",)),)


@architecture("an audio net flattened H, C, W", decides=())
def _(net: Net) -> Heads:
    for at, (i, o) in enumerate(((1, 64), (64, 128), (128, 256), (256, 512))):
        net.conv(f"features.{3 * at}", i, o, 3)
    for at, i, o in ((0, 12288, 4096), (2, 4096, 4096), (4, 4096, 128)):
        net.linear(f"embeddings.{at}", i, o)
    return (((512, 6, 4), ("embeddings.0", "embeddings.2", "embeddings.4")),)


@architecture("two branches on one map")
def _(net: Net) -> Heads:
    net.conv("features.0", 3, 32, 3)
    net.conv("features.3", 32, 64, 3)
    net.linear("kind.0", 1024, 128)
    net.linear("kind.2", 128, 10)
    net.linear("place.0", 1024, 64)
    net.linear("place.2", 64, 4)
    return (((64, 4, 4), ("kind.0", "kind.2", "place.0", "place.2")),)


@architecture("alphazero")
def _(net: Net) -> Heads:
    net.conv_bn("stem", 17, 256, 3)
    for block in range(4):
        net.conv_bn(f"tower.{block}.a", 256, 256, 3)
        net.conv_bn(f"tower.{block}.b", 256, 256, 3)
    net.conv_bn("policy_conv", 256, 2, 1)
    net.linear("policy_fc", 722, 362)
    net.conv_bn("value_conv", 256, 1, 1)
    net.linear("value_fc1", 361, 256)
    net.linear("value_fc2", 256, 1)
    return (((2, 19, 19), ("policy_fc",)), ((1, 19, 19), ("value_fc1", "value_fc2")))


@architecture("alphazero with heads as modules")
def _(net: Net) -> Heads:
    net.conv_bn("stem", 119, 128, 3)
    for block in range(3):
        net.conv_bn(f"tower.{block}.conv1", 128, 128, 3)
        net.conv_bn(f"tower.{block}.conv2", 128, 128, 3)
    net.conv("policy_head.conv", 128, 32, 1)
    net.bn("policy_head.bn", 32)
    net.linear("policy_head.fc", 2048, 4672)
    net.conv("value_head.conv", 128, 3, 1)
    net.bn("value_head.bn", 3)
    net.linear("value_head.fc1", 192, 128)
    net.linear("value_head.fc2", 128, 1)
    return (
        ((32, 8, 8), ("policy_head.fc",)),
        ((3, 8, 8), ("value_head.fc1", "value_head.fc2")),
    )


@architecture("mtcnn's output net")
def _(net: Net) -> Heads:
    for at, (i, o, k) in enumerate(((3, 32, 3), (32, 64, 3), (64, 64, 3), (64, 128, 2)), start=1):
        net.conv(f"conv{at}", i, o, k)
        net.shapes[f"prelu{at}.weight"] = (o,)
    net.linear("dense5", 1152, 256)
    net.shapes["prelu5.weight"] = (256,)
    for name, o in (("dense6_1", 2), ("dense6_2", 4), ("dense6_3", 10)):
        net.linear(name, 256, o)
    return (((128, 3, 3), ("dense5", "dense6_1", "dense6_2", "dense6_3")),)


@architecture("a face net with a norm after its embedding")
def _(net: Net) -> Heads:
    _basic(net, "conv2d_1a", 3, 32, 3)
    _basic(net, "conv2d_4b", 32, 256, 3)
    for block in range(3):
        name = f"repeat_3.{block}"
        _basic(net, f"{name}.branch0", 1792, 192, 1)
        _basic(net, f"{name}.branch1.0", 1792, 192, 1)
        net.conv(f"{name}.conv2d", 384, 1792, 1)
    _basic(net, "block8.branch0", 1792, 192, 1)
    _basic(net, "block8.branch1.0", 1792, 192, 1)
    net.conv("block8.conv2d", 384, 1792, 1)
    net.linear("last_linear", 1792, 512, bias=False)
    net.bn("last_bn", 512)
    net.linear("logits", 512, 8631)
    return (((1792, 1, 1), ("last_linear", "logits")),)


@architecture("a reader of text lines: a recurrent layer before the classifier")
def _(net: Net) -> Heads:
    net.conv("cnn.conv0", 1, 64, 3)
    net.conv("cnn.conv1", 64, 512, 3)
    for side in ("", "_reverse"):
        net.shapes[f"rnn.weight_ih_l0{side}"] = (1024, 512)
        net.shapes[f"rnn.weight_hh_l0{side}"] = (1024, 256)
        net.shapes[f"rnn.bias_ih_l0{side}"] = (1024,)
    net.linear("classifier", 512, 37)
    return ()


@architecture("an autoencoder's decoder is no head")
def _(net: Net) -> Heads:
    net.conv("net.0", 1, 16, 3)
    net.conv("net.2", 16, 32, 3)
    net.linear("net.5", 32, 8)
    net.linear("net.7", 8, 32)
    net.conv("net.9", 32, 16, 3)
    net.conv("net.11", 16, 1, 3)
    return ()


@architecture("a net of Dense layers has no map", decides=())
def _(net: Net) -> Heads:
    net.linear("fc1", 784, 128)
    net.linear("fc2", 128, 10)
    return (((1, 28, 28), ("fc1", "fc2")),)
