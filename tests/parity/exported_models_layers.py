# SPDX-License-Identifier: Apache-2.0
"""Models of torch.nn's layers, those that transformers' models do not use."""
import torch
from torch import nn
from torch.nn import functional as F

from exported_example import Example, call, on


def ids(batch, length):
    return call(torch.randint(0, 16, (batch, length)))


def features(batch, length):
    return call(torch.randn(batch, length, 8))


def padded_features(batch, length):
    mask = torch.zeros(batch, length, dtype=torch.bool)
    mask[-1, length // 2:] = True
    return call(torch.randn(batch, length, 8), mask)


def images(batch, size):
    return call(torch.randn(batch, 3, size, size))


class LstmTagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(16, 8, padding_idx=0)
        self.lstm = nn.LSTM(8, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, ids):
        y, (h, c) = self.lstm(self.embedding(ids))
        return self.head(y), h, c


class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(8, 6, bidirectional=True)
        self.rnn = nn.RNN(12, 8, nonlinearity="relu")
        self.cell = nn.GRUCell(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        y, _ = self.gru(x)
        y, _ = self.rnn(y)
        return self.head(self.cell(y[0], y[-1]))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU())
        self.middle = nn.Conv2d(8, 8, 3, padding="same")
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, dilation=2, groups=4, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(8, 8, 4, stride=2)
        self.out = nn.Conv2d(16, 3, 1)

    def forward(self, x):
        x = self.down(x)
        y = F.leaky_relu(self.grouped(F.gelu(self.middle(F.max_pool2d(x, 2)), approximate="tanh")))
        y = self.up(y)
        return self.out(torch.cat([x, F.interpolate(y, size=x.shape[-2:], mode="bilinear")], dim=1))


class BatchNorms(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8, momentum=0.3), nn.Hardswish(),
            nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.AdaptiveAvgPool2d(1))
        self.drop = nn.Dropout(0.4)
        self.norm = nn.BatchNorm1d(8, affine=False)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x):
        return self.classifier(self.drop(self.norm(self.features(x).flatten(1))))


class Dropouts(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.lstm = nn.LSTM(8, 8, num_layers=2, dropout=0.5)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5)
        self.alpha = nn.AlphaDropout(0.2)
        self.relu = nn.RReLU()
        self.inplace = nn.Dropout(0.3, inplace=True)

    def forward(self, x):
        x = F.dropout(self.linear(x), 0.2, self.training)
        x = self.inplace(self.lstm(x)[0] * 2)
        x = F.feature_alpha_dropout(self.alpha(x), 0.1, self.training)
        x = self.relu(self.attention(x, x, x, need_weights=False)[0])
        return F.dropout1d(x, 0.5, self.training)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, x, mask):
        memory = self.encoder(x, src_key_padding_mask=mask)
        causal = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.decoder(x, memory, tgt_mask=causal)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mha = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        y, weights = self.mha(x, x, x)
        return self.head(y), weights


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.layer = nn.Linear(8, 8)
        self.again = self.layer
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.layer(torch.tanh(self.layer(self.embedding(ids)))))


class SharedTensors(nn.Module):
    """Two layers of the same tensors, and a block of two names, which PEFT adapts once and writes twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight, self.second.bias = self.first.weight, self.first.bias
        block = nn.ModuleDict({"fc": nn.Linear(8, 8)})
        self.blocks = nn.ModuleList([block, block])

    def forward(self, x):
        for block in self.blocks:
            x = torch.tanh(block["fc"](x))
        return self.second(self.first(x))


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv1d(8, 8, 3, padding=1)
        self.circular = nn.Conv1d(8, 8, 3, padding=1, padding_mode="circular")
        self.c2 = nn.Conv2d(1, 4, (3, 2), stride=2)
        self.c2g = nn.Conv2d(4, 8, 1, groups=4, bias=False)
        self.c3 = nn.Conv3d(1, 2, 2)
        self.t1 = nn.ConvTranspose1d(8, 4, 2, stride=2)

    def forward(self, x):
        x = self.circular(self.c1(x.transpose(1, 2)))
        y = self.c3(self.c2g(torch.tanh(self.c2(x.unsqueeze(1)))).unsqueeze(1))
        return y, F.avg_pool1d(self.t1(x), 2), F.pad(x, (1, 1), mode="replicate")


class OtherLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(16, 8, mode="mean")
        self.bilinear = nn.Bilinear(8, 8, 8)
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.RMSNorm(8)])
        self.scales = nn.ParameterList([torch.full((8,), 0.5), torch.ones(1)])
        self.named = nn.ParameterDict({"shift": torch.zeros(8), "gate": torch.randn(8, 8)})
        self.parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.prelu = nn.PReLU(8)
        self.register_buffer("positions", torch.linspace(0, 1, 8), persistent=False)

    def forward(self, ids):
        x = self.bag(ids)
        for norm, scale in zip(self.norms, self.scales):
            x = norm(self.bilinear(x, x)) * scale + self.positions
        x = torch.einsum("bi,ij->bj", x, self.named["gate"]) + self.named["shift"]
        return self.prelu(self.parametrized(x))


class Storages(nn.Module):
    """Weights that are views, of every dtype."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.turned = nn.Parameter(torch.randn(8, 4).t())
        fused = torch.randn(10, 8)
        self.query, self.key = nn.Parameter(fused[2:6]), nn.Parameter(fused[6:])
        self.scalar = nn.Parameter(torch.tensor(2.0))
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
        self.nothing = nn.Parameter(torch.zeros(0, 3))
        self.unused = nn.Linear(3, 2)
        self.register_buffer("expanded", torch.ones(1).expand(4))
        self.register_buffer("absent", None)
        for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.uint8, torch.int32,
                      torch.float8_e4m3fn):
            self.register_buffer(str(dtype).split(".")[1] + "_ones", torch.ones(2).to(dtype))

    def forward(self, x):
        y = self.conv(x).mean((2, 3)) * self.expanded * self.frozen * self.scalar
        y = y @ self.turned @ self.query.t() + y @ self.key[:, :4]
        return y * self.float16_ones.sum() + self.bfloat16_ones.sum() * self.int32_ones[0], \
            self.float64_ones * self.uint8_ones, self.complex64_ones.abs(), self.float8_e4m3fn_ones.float()


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).transpose(-1, -2)


class ScaledStdConv2d(nn.Conv2d):
    """Brock et al., https://arxiv.org/abs/2101.08692: standardised and scaled anew in every forward."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def forward(self, x):
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, weight=(self.gain * 0.3).view(-1), training=True, momentum=0.0)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, self.stride, self.padding, self.dilation,
                        self.groups)


class ComputedWeights(nn.Module):
    def __init__(self, spectral):
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 8, 3, padding=1), dim=2)
        # In training mode its buffers change, in a program in eval mode too: export does not say when.
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)) if spectral else nn.Identity()
        self.symmetric = nn.Linear(8, 8)
        nn.utils.parametrize.register_parametrization(self.symmetric, "weight", Symmetric())
        self.hooked = nn.utils.weight_norm(nn.Linear(8, 8))
        self.standard = ScaledStdConv2d(2, 4, 3, padding=1)

    def forward(self, x):
        y = self.conv(x.transpose(1, 2)).transpose(1, 2)
        y = torch.tanh(self.spectral(y)) + self.hooked(x)
        return self.hooked(self.symmetric(y)), self.standard(torch.stack([x, y], 1))


FIXED_LENGTH = ((5, 2), (5, 3))  # recurrent layers are exported for one
LAYERS = {
    "lstm_tagger": Example(LstmTagger, ids, on("embedding", "head"), sizes=((2, 7), (3, 7))),
    "gru": Example(Gru, features, sizes=FIXED_LENGTH),
    "unet": Example(UNet, images, on("down.0", "middle", "out"), sizes=((2, 8), (3, 12))),
    "batch_norms": Example(BatchNorms, images, on("0", "3", modules_to_save=["classifier", "features.4"]),
                           sizes=((2, 16), (4, 19))),
    "dropouts": Example(Dropouts, features, on("linear"), sizes=FIXED_LENGTH),
    "transformer": Example(Transformer, padded_features, on("linear1", "linear2")),
    "attention": Example(Attention, features, on("mha", "head")),
    "tied": Example(Tied, ids, on("embedding", "head", "layer")),
    # A config alone tells a program nothing of them.
    "shared_tensors": Example(SharedTensors, features, on("first", "second", "fc"), injects=False),
    "convolutions": Example(Convolutions, features, on("c1", "c2", "c3"), sizes=((2, 9), (3, 13))),
    "other_layers": Example(OtherLayers, ids, {}),
    "computed_weights": Example(lambda: ComputedWeights(spectral=False), features,
                                on("conv", "symmetric", "hooked", use_dora=True), merges=False),
    "computed_weights.spectral": Example(lambda: ComputedWeights(spectral=True), features, training=False,
                                         merges=False),
    "storages": Example(Storages, images, {}, sizes=((2, 5), (3, 6))),
}
