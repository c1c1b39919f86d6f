"""How a voice grows: tensors of a network as those of a wider one, or of another sample rate.

*Units*, which are channels that a layer computes, are copied: copies are computed alike, and
what reads them reads shares of each that sum to the old weight (Net2Net: Chen et al. 2016, section
2.3). Copies keep the mean and the variance that layer norms see, which new units would not. Shares
are drawn for each weight. With equal ones copies would learn alike for ever where no dropout tells
them apart, in the flow say; drawn ones, unlike noise on the weights, leave the function as it is.

*Latents*, the flow's channels, each have noise of their own: shares of two would have less of
it. So the new ones carry nothing: prior and posterior are N(0, 1) there, which costs no KL, the
flow lets them pass and the decoder does not hear them. They lie in the middle: so the flow's
halves stay halves, also when it flips them.

At another rate frames last differently, and bins of the spectrogram are other frequencies:
durations stay in seconds, and the posterior encoder hears the spectrum resampled to the old bins.
No rule has the decoder, whose kernels are in samples.
"""

from __future__ import annotations

import functools
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vits_jax.checkpoints.source import Shapes
from vits_jax.config import AudioConfig, Config

Arrays = Mapping[str, np.ndarray]

NO_RULE = "no rule keeps its function"
SAME = "the same in both"

# Layers: the channels that each computes, and those that it reads ("": always as many). Several
# blocks of them may lie side by side: heads, gates, mean and scale.
_LAYERS = tuple(
    (re.compile(pattern), computed, read)
    for pattern, computed, read in (
        (r"enc_p\.encoder\.attn_layers\.\d+\.conv_[qkv]", "head", "hidden"),
        (r"enc_p\.encoder\.attn_layers\.\d+\.conv_o", "hidden", "head"),
        (r"enc_p\.encoder\.ffn_layers\.\d+\.conv_1", "filter", "hidden"),
        (r"enc_p\.encoder\.ffn_layers\.\d+\.conv_2", "hidden", "filter"),
        (r"enc_p\.encoder\.norm_layers_[12]\.\d+", "hidden", ""),
        (r"enc_[pq]\.proj", "latent", "hidden"),
        (r"enc_q\.pre", "hidden", "bins"),
        (r"flow\.flows\.\d+\.pre", "hidden", "first"),
        (r"flow\.flows\.\d+\.post", "second", "hidden"),
        (r"(enc_q|flow\.flows\.\d+)\.enc\.(in_layers|res_skip_layers)\.\d+", "hidden", "hidden"),
        (r"(enc_q|flow\.flows\.\d+)\.enc\.cond_layer|dp\.cond", "hidden", "gin"),
        (r"dp\.(pre|proj|post_proj)|dp\..*\.convs_1x1\.\d+", "hidden", "hidden"),
        (r"dp\.post_pre|dp\.(post_)?flows\.\d+\.pre", "hidden", ""),
        (r"dp\..*\.(convs_sep|norms_[12])\.\d+", "hidden", ""),
        (r"dp\.(post_)?flows\.\d+\.proj|dp\.conv_1", "", "hidden"),
        (r"dec\.conv_pre", "stage 0", "latent"),
        (r"dec\.cond", "stage 0", "gin"),
    )
)
_SPLINE = re.compile(r"dp\.(post_)?flows\.\d+\.proj")
_QUERY = re.compile(r"enc_p\.encoder\.attn_layers\.\d+\.conv_q")
_TABLES = {"enc_p.emb.weight": "hidden", "emb_g.weight": "gin"}
_KINDS = ("weight_v", "weight_g", "weight", "bias", "gamma", "beta")


@dataclass(frozen=True)
class Growth:
    """From the generator of one configuration to that of another.

    `there` and `here` are the shapes of the old one's parameters, as far as it has them, and of the
    new one's.
    """

    old: Config
    new: Config
    there: Shapes
    here: Shapes

    def rule(self, name: str, *, rows: bool = False) -> str | None:
        """What becomes of a tensor that both have: `SAME`, or how it changes; None: `NO_RULE`.

        Args:
            name: of the tensor, of the generator.
            rows: it is a table whose rows somebody else finds.
        """
        stem, _, kind = name.rpartition(".")
        if kind == "weight_g":
            rule = self._rule_of_normed(name)
        elif not rows and self.there[name] == self.here[name] and not self._scaled(name):
            rule = SAME
        elif self._axes(name, rows) is None or (kind == "bias" and not self._weight_grows(stem)):
            rule = None
        elif rows and self.there[name][1:] == self.here[name][1:]:
            rule = SAME
        else:
            rule = f"grown from {self.there[name]}"
        if rule is not None and self._of_another_rate(name):
            return "for another rate" if rule == SAME else f"{rule}, for another rate"
        return rule

    def _rule_of_normed(self, name: str) -> str | None:
        """Of a length: it goes with its direction."""
        v = f"{name[:-1]}v"
        if v not in self.there or v not in self.here or self.there[v] == self.here[v]:
            return SAME if self.there[name] == self.here[name] else None
        return None if self.rule(v) is None else "the length of what is grown"

    def _weight_grows(self, stem: str) -> bool:
        weights = [w for w in (f"{stem}.weight", f"{stem}.weight_v") if w in self.there]
        return any(w in self.here and self.rule(w) is not None for w in weights)

    def needs(self, name: str) -> tuple[str, ...]:
        """The old tensors that the new one is made of."""
        stem, _, kind = name.rpartition(".")
        if kind in ("weight_g", "weight_v"):
            return f"{stem}.weight_g", f"{stem}.weight_v"
        return (name, "dp.flows.0.logs") if name == "dp.flows.0.m" else (name,)

    def tensor(self, name: str, arrays: Arrays) -> np.ndarray:
        """The new tensor, float32.

        Args:
            name: one for which `rule` says something else than `SAME`.
            arrays: those that it `needs`.
        """
        stem, _, kind = name.rpartition(".")
        if kind not in ("weight_g", "weight_v"):
            made = self._grown(name, arrays[name].astype(np.float64))
            return self._at_rate(name, made, arrays).astype(np.float32)
        g, v = (arrays[f"{stem}.weight_{part}"].astype(np.float64) for part in "gv")
        weight = self._grown(f"{stem}.weight_v", v * (g / _length(v)))
        return (weight if kind == "weight_v" else _length(weight)).astype(np.float32)

    # Wider

    def _grown(self, name: str, array: np.ndarray) -> np.ndarray:
        # Of the name alone: every process of a run draws the same.
        random = np.random.default_rng(zlib.crc32(name.encode()))
        for axis, (index, read) in enumerate(self._axes(name, name in _TABLES) or ()):
            if read:
                array = _shared(array, axis, index, random)
            else:
                array = _copied(array, axis, index)
        return array * self._factor(name, array)

    @property
    def _wider(self) -> float:
        return self.new.model.hidden_channels / self.old.model.hidden_channels

    def _scaled(self, name: str) -> bool:
        """Whether a tensor's values change though its shape may not: those of a spline's bias."""
        return self._wider != 1 and _SPLINE.fullmatch(name.rpartition(".")[0]) is not None

    def _factor(self, name: str, array: np.ndarray) -> float | np.ndarray:
        """What the code that uses a tensor divides or multiplies by is another number now."""
        wider, stem = self._wider, name.rpartition(".")[0]
        if stem == "enc_p.emb":
            return wider**-0.5  # it is multiplied by √hidden
        if _QUERY.fullmatch(stem):
            return wider**-0.5  # a sum of so many times the products is divided by √size
        if _SPLINE.fullmatch(stem):
            sizes = (len(array) + 1) // 3 * 2  # widths and heights are divided by √hidden
            factor = np.ones((len(array),) + (1,) * (array.ndim - 1))
            factor[:sizes] = wider**0.5
            return factor
        return 1.0

    def _axes(self, name: str, rows: bool = False) -> list[tuple[np.ndarray, bool]] | None:
        """For each axis the old number of each new channel (-1: it has none), and whether these are
        read; None if there is no rule."""
        there, here, found = self.there[name], self.here[name], []
        meant = self._meant(name)
        if meant is None or len(meant) != len(there) or len(there) != len(here):
            return None
        for axis, (channels, read) in enumerate(meant):
            if axis == 0 and rows:
                index: np.ndarray | None = np.arange(there[0])
            else:
                index = self._blocks(channels, there[axis], here[axis])
            if index is None:
                return None
            found.append((index, read))
        return found

    def _meant(self, name: str) -> list[tuple[str, bool]] | None:
        """The channels that lie along each axis, and whether they are read."""
        if name in _TABLES:
            return [("", False), (_TABLES[name], False)]
        stem, _, kind = name.rpartition(".")
        if kind in ("emb_rel_k", "emb_rel_v"):
            return [("", False), ("", False), ("head", False)]
        layer = self._layer(stem)
        if layer is None or kind not in _KINDS:
            return None
        if kind not in ("weight", "weight_v"):
            return [(layer[0], False)]
        both = [(layer[0], False), (layer[1], True)]
        return [*(both[::-1] if stem.startswith("dec.ups.") else both), ("", False)]

    def _layer(self, stem: str) -> tuple[str, str] | None:
        """The channels that a layer computes, and those that it reads."""
        if stem.startswith("dp.") and self.old.model.use_sdp != self.new.model.use_sdp:
            return None
        if stem.startswith(("dec.ups.", "dec.resblocks.", "dec.conv_post")):
            return self._of_decoder(stem)
        matching = (layer[1:] for layer in _LAYERS if layer[0].fullmatch(stem))
        return next(matching, None)

    def _of_decoder(self, stem: str) -> tuple[str, str] | None:
        """Of a stage that both have, as all stages before it."""
        model, number = self.new.model, stem.split(".")[2] if stem.count(".") > 1 else ""
        if stem.startswith("dec.ups."):
            stage = int(number) + 1
            channels = f"stage {stage}", f"stage {stage - 1}"
        elif stem.startswith("dec.resblocks."):
            stage = int(number) // len(model.resblock_kernel_sizes) + 1
            channels = f"stage {stage}", f"stage {stage}"
        else:
            stage = len(model.upsample_rates)
            channels = "", f"stage {stage}"
        both = (self.old.model, model)
        strides = {(m.upsample_rates[:stage], m.upsample_kernel_sizes[:stage]) for m in both}
        blocks = {(m.resblock_kernel_sizes, m.resblock_dilation_sizes) for m in both}
        known = len(strides) == 1 and (len(blocks) == 1 or not stem.startswith("dec.resblocks."))
        if not number:
            known = known and len({m.upsample_rates for m in both}) == 1
        return channels if known else None

    def _blocks(self, channels: str, there: int, here: int) -> np.ndarray | None:
        """Of an axis of these lengths, see `_axes`; None if there is no rule."""
        if channels == "bins" and (there, here) == self._bins:
            return np.arange(there)  # `resampling` makes the new ones of them
        if channels in ("", "bins"):
            return np.arange(there) if there == here else None
        old, new = _size(channels, self.old), _size(channels, self.new)
        if not old or not new or there % old or there // old * new != here:
            return None
        index = _latents(channels, old, new)
        if index is None:
            return None
        starts = np.arange(there // old)[:, None] * old
        return np.where(index < 0, -1, starts + index).ravel()

    # At another rate

    @property
    def _bins(self) -> tuple[int, int]:
        return self.old.audio.spec_channels, self.new.audio.spec_channels

    @functools.cached_property
    def longer(self) -> float:
        """How many new frames last as long as an old one."""
        old, new = (c.audio.hop_length / c.audio.sample_rate for c in (self.old, self.new))
        return old / new

    def _of_another_rate(self, name: str) -> bool:
        """Whether its numbers mean frames, or bins of a spectrogram, that are others now."""
        if name == "enc_q.pre.weight":
            audio = [(c.audio.sample_rate, c.audio.filter_length) for c in (self.old, self.new)]
            return audio[0] != audio[1]
        if self.longer == 1 or self.old.model.use_sdp != self.new.model.use_sdp:
            return False
        stochastic = ("dp.flows.0.m", "dp.post_pre.weight")
        return name in (stochastic if self.new.model.use_sdp else ("dp.proj.bias",))

    def _at_rate(self, name: str, array: np.ndarray, arrays: Arrays) -> np.ndarray:
        if not self._of_another_rate(name):
            return array
        if name == "enc_q.pre.weight":
            return np.einsum("obk,bn->onk", array, resampling(self.old.audio, self.new.audio))
        if name == "dp.post_pre.weight":
            return array / self.longer
        if name == "dp.proj.bias":
            return array + math.log(self.longer)
        # log w = (z - m) / exp(logs), of the first of the two channels
        scale = np.exp(arrays["dp.flows.0.logs"].astype(np.float64))
        shift = np.array([math.log(self.longer), 0.0])[:, None]
        return array - scale * shift


def resampling(old: AudioConfig, new: AudioConfig) -> np.ndarray:
    """Matrix ``[old bins, new bins]`` that makes of magnitudes those of the same sound at the old
    rate: linear between bins, zero above the highest new one.

    Power per hertz, as of noise, grows with the rate times the window's samples. (Tones under a
    window of as many samples are as high, and wider: on speech noise's rule is nearer the truth.)
    """
    at = np.arange(old.spec_channels) * (old.sample_rate / old.filter_length)
    at = at * (new.filter_length / new.sample_rate)  # in new bins
    distance = np.abs(at[:, None] - np.arange(new.spec_channels)[None])
    power = old.sample_rate * old.win_length / (new.sample_rate * new.win_length)
    return np.maximum(0.0, 1 - distance) * math.sqrt(power)


def _length(v: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum(v * v, axis=tuple(range(1, v.ndim)), keepdims=True))


def _size(channels: str, config: Config) -> int:
    model = config.model
    if channels.startswith("stage"):
        return model.upsample_initial_channel >> int(channels.split()[1])
    return {
        "hidden": model.hidden_channels,
        "head": model.hidden_channels // model.n_heads,
        "filter": model.filter_channels,
        "gin": model.gin_channels,
        "latent": model.inter_channels,
        "first": model.inter_channels // 2,
        "second": model.inter_channels // 2,
    }[channels]


def _latents(channels: str, old: int, new: int) -> np.ndarray | None:
    """The old number of each new channel of one block; None if there is no rule."""
    if channels not in ("latent", "first", "second"):
        return np.repeat(np.arange(old), new // old) if new % old == 0 else None
    if new < old:
        return None
    lower, upper = {"latent": (old // 2, old // 2), "first": (old, 0), "second": (0, old)}[channels]
    index = np.full(new, -1)
    index[:lower] = np.arange(lower)
    index[new - upper :] = np.arange(old - upper, old)
    return index


def _copied(array: np.ndarray, axis: int, index: np.ndarray) -> np.ndarray:
    taken = np.take(array, np.maximum(index, 0), axis)
    none = (index < 0).reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    return np.where(none, 0.0, taken)


def _shared(
    array: np.ndarray, axis: int, index: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Copies that sum to the old numbers; of two each is between a quarter and three quarters."""
    copies = _copied(array, axis, index)
    if len(np.unique(index)) == len(index) or np.any(index < 0):
        return copies
    shares = random.uniform(0.5, 1.5, copies.shape)
    _, starts, counts = np.unique(index, return_index=True, return_counts=True)
    sums = np.add.reduceat(shares, starts, axis)
    return copies * shares / np.repeat(sums, counts, axis)
