"""One small network of each family, as their authors build them; widths are made small."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LeNet(nn.Module):
    """1998, as PyTorch's first tutorial writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, self.num_flat_features(x))
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)

    def num_flat_features(self, x: Tensor) -> int:
        features = 1
        for size in x.size()[1:]:
            features *= size
        return features


class AlexNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(8, 12, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((3, 3))
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(12 * 3 * 3, 32),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(32, 24),
            nn.ReLU(inplace=True),
            nn.Linear(24, 7),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        x = x.view(x.size(0), 12 * 3 * 3)
        return self.classifier(x)


class VGG(nn.Module):
    def __init__(self, *, norm: bool = False, padding: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for item in (8, "M", 12, "M", 16, 16, "M"):
            if item == "M":
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
                continue
            layers.append(nn.Conv2d(channels, item, kernel_size=3, padding=padding))
            layers += [nn.BatchNorm2d(item)] if norm else []
            layers.append(nn.ReLU(inplace=True))
            channels = item
        self.features = nn.Sequential(*layers)
        size = 4 if padding else 3
        self.avgpool = nn.AdaptiveAvgPool2d((size, size))
        self.classifier = nn.Sequential(
            nn.Linear(16 * size * size, 40),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(40, 40),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(40, 9),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        return self.classifier(x)


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, 11)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        return self.fc(x)


class DenseNetLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, growth, 3, 1, 1, bias=False)

    def forward(self, inputs: Tensor | list[Tensor]) -> Tensor:
        features = [inputs] if isinstance(inputs, Tensor) else inputs
        return self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))


class DenseNetBlock(nn.ModuleDict):
    def __init__(self, inputs: int, growth: int, count: int) -> None:
        super().__init__()
        for at in range(count):
            self.add_module(f"denselayer{at + 1}", DenseNetLayer(inputs + at * growth, growth))

    def forward(self, first: Tensor) -> Tensor:
        features = [first]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                [
                    ("conv0", nn.Conv2d(3, 8, 7, 2, 3, bias=False)),
                    ("norm0", nn.BatchNorm2d(8)),
                    ("relu0", nn.ReLU(inplace=True)),
                    ("pool0", nn.MaxPool2d(3, 2, 1)),
                    ("denseblock1", DenseNetBlock(8, 4, 2)),
                    ("norm5", nn.BatchNorm2d(16)),
                ]
            )
        )
        self.classifier = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        out = F.relu(features, inplace=True)
        out = F.adaptive_avg_pool2d(out, (1, 1))
        out = torch.flatten(out, 1)
        return self.classifier(out)


class GoogLeNetOutputs(NamedTuple):
    logits: Tensor
    aux: Tensor | None


class InceptionAux(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, 8, 1)
        self.fc1 = nn.Linear(8 * 4 * 4, 20)
        self.fc2 = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(x, (4, 4))
        x = torch.flatten(F.relu(self.conv(x)), 1)
        return self.fc2(F.dropout(F.relu(self.fc1(x)), 0.7, training=self.training))


class Inception(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch1 = nn.Conv2d(inputs, 4, 1)
        self.branch2 = nn.Sequential(nn.Conv2d(inputs, 4, 1), nn.Conv2d(4, 6, 3, padding=1))
        self.branch3 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), nn.Conv2d(inputs, 4, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x)], 1)


class GoogLeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = Inception(8)
        self.inception4a = Inception(14)
        self.aux1 = InceptionAux(14)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(14, 10)

    def forward(self, x: Tensor) -> GoogLeNetOutputs:
        x = self.maxpool1(F.relu(self.conv1(x)))
        x = self.inception3a(x)
        aux = None
        if self.training:
            aux = self.aux1(x)
        x = self.avgpool(self.inception4a(x))
        x = torch.flatten(x, 1)
        return GoogLeNetOutputs(self.fc(self.dropout(x)), aux)


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, *, squeeze: bool = False) -> None:
        super().__init__()
        hidden = inputs * 2
        self.use_res_connect = stride == 1 and inputs == outputs
        act = nn.SiLU if squeeze else nn.ReLU6
        layers = [
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            act(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            act(inplace=True),
            *([SqueezeExcitation(hidden, 4)] if squeeze else []),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(inplace=True),
            InvertedResidual(8, 8, 1),
            InvertedResidual(8, 12, 2),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(12, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.fc2(F.silu(self.fc1(self.avgpool(x)))))
        return scale * x


class LinearSqueezeExcitation(nn.Module):
    """The gate as SENet's ports have it: with Dense layers inside of the trunk."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, 4, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(4, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


class SENet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.gate = LinearSqueezeExcitation(8)
        self.last = nn.Conv2d(8, 12, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.gate(self.stem(x)))
        return self.classifier(self.pool(x).view(x.size(0), -1))


class EfficientNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU()),
            InvertedResidual(8, 8, 1, squeeze=True),
            InvertedResidual(8, 12, 2, squeeze=True),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2, inplace=True), nn.Linear(12, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Permute(nn.Module):
    def __init__(self, dims: list[int]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return torch.permute(x, self.dims)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            Permute([0, 2, 3, 1]),
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
            Permute([0, 3, 1, 2]),
        )
        self.layer_scale = nn.Parameter(torch.rand(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale * self.block(x)


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        norm = partial(LayerNorm2d, eps=1e-6)
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 4, 4), norm(8)),
            ConvNeXtBlock(8),
            nn.Sequential(norm(8), nn.Conv2d(8, 12, 2, 2)),
            ConvNeXtBlock(12),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(norm(12), nn.Flatten(1), nn.Linear(12, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)))


class RNet(nn.Module):
    """As facenet-pytorch has MTCNN's third network: it permutes to W, H, C and has three heads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, kernel_size=3)
        self.prelu1 = nn.PReLU(8)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = nn.Conv2d(8, 12, kernel_size=(3, 2))
        self.prelu2 = nn.PReLU(12)
        self.dense5 = nn.Linear(12 * 3 * 4, 20)
        self.prelu5 = nn.PReLU(20)
        self.dense6_1 = nn.Linear(20, 2)
        self.softmax6_1 = nn.Softmax(dim=1)
        self.dense6_2 = nn.Linear(20, 4)
        self.dense6_3 = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.prelu2(self.conv2(x))
        x = x.permute(0, 3, 2, 1).contiguous()
        x = self.prelu5(self.dense5(x.view(x.shape[0], -1)))
        return self.dense6_2(x), self.dense6_3(x), self.softmax6_1(self.dense6_1(x))


class Conv1dNet(nn.Module):
    """A net on sequences, with norms over vectors in its head."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv1d(4, 8, 5, stride=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(8 * 7, 16),
            nn.BatchNorm1d(16),
            nn.LeakyReLU(),
            nn.Linear(16, 3),
            nn.LogSoftmax(dim=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


class Conv3dNet(nn.Module):
    """C3D in small: volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(1, 4, 3)
        self.pool1 = nn.MaxPool3d((1, 2, 2), (1, 2, 2))
        self.conv2 = nn.Conv3d(4, 6, 3)
        self.fc6 = nn.Linear(6 * 4 * 1 * 2, 12)
        self.fc7 = nn.Linear(12, 5)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(p=0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.conv2(self.pool1(self.relu(self.conv1(x)))))
        h = h.view(-1, 48)
        h = self.dropout(self.relu(self.fc6(h)))
        return F.softmax(self.fc7(h), dim=-1)


class AlphaZero(nn.Module):
    """Two maps, two heads: a policy of 1 x 1 convolutions and a value, squashed."""

    def __init__(self, board: int = 5) -> None:
        super().__init__()
        self.board = board
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.policy_conv = nn.Conv2d(8, 2, 1)
        self.policy_bn = nn.BatchNorm2d(2)
        self.policy_fc = nn.Linear(2 * board * board, board * board + 1)
        self.value_conv = nn.Conv2d(8, 1, 1)
        self.value_bn = nn.BatchNorm2d(1)
        self.value_fc1 = nn.Linear(board * board, 16)
        self.value_fc2 = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        assert x.shape[-1] == self.board
        x = self.trunk(x)
        policy = F.relu(self.policy_bn(self.policy_conv(x)))
        policy = policy.view(-1, 2 * self.board * self.board)
        value = F.relu(self.value_bn(self.value_conv(x))).flatten(1)
        value = F.relu(self.value_fc1(value))
        return {
            "policy": F.log_softmax(self.policy_fc(policy), dim=1),
            "value": torch.tanh(self.value_fc2(value)).squeeze(-1),
        }


class Case(NamedTuple):
    """A network, an input of its own size, and what its spec should say."""

    make: type[nn.Module] | partial[nn.Module]
    input: tuple[int, ...]
    heads: list[tuple[tuple[int, ...], str, dict[str, str]]]
    pads: bool = True


def chain(first: str, *later: str) -> dict[str, str]:
    return {first: "map", **dict.fromkeys(later, "dense")}


CASES = {
    "LeNet": Case(
        LeNet, (1, 32, 32), [((16, 5, 5), "CHW", chain("fc1", "fc2", "fc3"))], pads=False
    ),
    "AlexNet": Case(
        AlexNet,
        (3, 63, 63),
        [((12, 3, 3), "CHW", chain("classifier.1", "classifier.4", "classifier.6"))],
    ),
    "VGG": Case(
        VGG,
        (3, 32, 32),
        [((16, 4, 4), "CHW", chain("classifier.0", "classifier.3", "classifier.6"))],
    ),
    "VGG-without-padding": Case(
        partial(VGG, padding=0),
        (3, 46, 46),
        [((16, 3, 3), "CHW", chain("classifier.0", "classifier.3", "classifier.6"))],
        pads=False,
    ),
    "VGG-BN": Case(
        partial(VGG, norm=True),
        (3, 32, 32),
        [((16, 4, 4), "CHW", chain("classifier.0", "classifier.3", "classifier.6"))],
    ),
    "ResNet": Case(ResNet, (3, 64, 64), [((16, 1, 1), "CHW", chain("fc"))]),
    "DenseNet": Case(DenseNet, (3, 32, 32), [((16, 1, 1), "CHW", chain("classifier"))]),
    "GoogLeNet": Case(GoogLeNet, (3, 64, 64), [((14, 1, 1), "CHW", chain("fc"))]),
    "MobileNetV2": Case(MobileNetV2, (3, 32, 32), [((12, 1, 1), "CHW", chain("classifier.1"))]),
    "SENet": Case(SENet, (3, 32, 32), [((12, 1, 1), "CHW", chain("classifier"))]),
    "EfficientNet": Case(EfficientNet, (3, 32, 32), [((12, 1, 1), "CHW", chain("classifier.1"))]),
    "ConvNeXt": Case(ConvNeXt, (3, 32, 32), [((12, 1, 1), "CHW", chain("classifier.2"))]),
    "MTCNN": Case(
        RNet,
        (3, 13, 13),
        [((12, 3, 4), "WHC", chain("dense5", "dense6_2", "dense6_3", "dense6_1"))],
        pads=False,
    ),
    "1-D": Case(Conv1dNet, (4, 32), [((8, 7), "CL", chain("head.1", "head.4"))], pads=False),
    "3-D": Case(
        Conv3dNet, (1, 8, 8, 10), [((6, 4, 1, 2), "CDHW", chain("fc6", "fc7"))], pads=False
    ),
    "AlphaZero": Case(
        AlphaZero,
        (3, 5, 5),
        [
            ((1, 5, 5), "CHW", chain("value_fc1", "value_fc2")),
            ((2, 5, 5), "CHW", chain("policy_fc")),
        ],
    ),
}


def random_net(case: Case, seed: int = 0) -> nn.Module:
    """Make a network whose every tensor matters: norms have means and variances of their own."""
    torch.manual_seed(seed)
    net = case.make()
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    for name, parameter in net.named_parameters():
        if parameter.dim() == 1 and name.endswith("weight"):
            parameter.data.uniform_(0.5, 1.5)
    return net.eval()
