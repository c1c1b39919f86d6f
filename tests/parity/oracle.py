"""Piper's own modules (`piper-tts[train]`), made ready to be measured against.

Everything here drives the installed package from outside: it is imported, patched for the
length of a ``with`` block, and read. Arrays leave as numpy, parameters as flat dicts
``{state_dict key: array}``, which is the form of vits_jax's parameters too.
"""

from __future__ import annotations

import contextlib
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from unittest import mock

import numpy as np
import torch
from torch import nn

from tests.parity.alignment_reference import maximum_path_batch
from vits_jax.config import MRD_RESOLUTIONS, AudioConfig, Config, ModelConfig


def _provide_alignment() -> None:
    """The wheel lacks its compiled `monotonic_align`; the oracle imports it on first use."""
    name = "piper.train.vits.monotonic_align"
    module = types.ModuleType(name)
    module.maximum_path = lambda neg_cent, mask: torch.from_numpy(
        maximum_path_batch(neg_cent.detach().numpy(), mask.numpy())
    )
    sys.modules[name] = module


_provide_alignment()

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch and lightning deprecate is not ours to mend
    from piper.train.vits import losses as oracle_losses
    from piper.train.vits import mel_processing, models
    from piper.train.vits.lightning import VitsModel

Flat = dict[str, np.ndarray]


# Networks


def generator(
    model: ModelConfig, audio: AudioConfig, *, seed: int = 0, device: str = "cpu"
) -> models.SynthesizerTrn:
    """The oracle's generator of these sizes in eval mode, at Piper's initial values."""
    with _construction(seed), torch.device(device):
        network = models.SynthesizerTrn(
            n_vocab=model.num_symbols,
            spec_channels=audio.spec_channels,
            segment_size=model.segment_size // audio.hop_length,
            inter_channels=model.inter_channels,
            hidden_channels=model.hidden_channels,
            filter_channels=model.filter_channels,
            n_heads=model.n_heads,
            n_layers=model.n_layers,
            kernel_size=model.kernel_size,
            p_dropout=model.p_dropout,
            resblock=model.resblock,
            resblock_kernel_sizes=model.resblock_kernel_sizes,
            resblock_dilation_sizes=model.resblock_dilation_sizes,
            upsample_rates=model.upsample_rates,
            upsample_initial_channel=model.upsample_initial_channel,
            upsample_kernel_sizes=model.upsample_kernel_sizes,
            n_speakers=model.num_speakers,
            gin_channels=model.gin_channels,
            use_sdp=model.use_sdp,
        )
    return network.eval()


def discriminator(
    width: int = 1024, *, seed: int = 0, device: str = "cpu"
) -> models.MultiPeriodDiscriminator:
    """The oracle's discriminators, every layer narrowed by width / 1024."""
    with _construction(seed):
        with torch.device(device if width == 1024 else "meta"):
            network = models.MultiPeriodDiscriminator()
        if width != 1024:
            for part in network.discriminators:
                part.convs = nn.ModuleList(_narrow(conv, width) for conv in part.convs)
                part.conv_post = _narrow(part.conv_post, width)
    return network.eval()


def multi_resolution(
    resolutions: tuple[tuple[int, int, int], ...] = MRD_RESOLUTIONS, *, seed: int = 0
) -> models.MultiResolutionDiscriminator:
    """The oracle's discriminators of spectra."""
    with _construction(seed):
        return models.MultiResolutionDiscriminator(resolutions).eval()


def adversarial_losses(
    network: nn.Module, real: torch.Tensor, generated: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of discriminators, of the generator, and of feature maps, for audio ``[B, 1, T]``."""
    decided, decided_generated, _, _ = network(real, generated.detach())
    disc, _, _ = oracle_losses.discriminator_loss(decided, decided_generated)
    _, decided_generated, maps, maps_generated = network(real, generated)
    gen, _ = oracle_losses.generator_loss(decided_generated)
    return disc, gen, oracle_losses.feature_loss(maps, maps_generated)


@contextlib.contextmanager
def _construction(seed: int) -> Iterator[None]:
    """The same float32 values for the same seed, also where the default is float64."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch deprecates the weight norm that Piper uses
            yield
    finally:
        torch.set_default_dtype(default)


def _narrow(conv: nn.Module, width: int) -> nn.Module:
    """The same convolution with its channels scaled; a lone channel (the signal) stays one."""
    inputs, outputs = (
        channels if channels == 1 else max(1, channels * width // 1024)
        for channels in (conv.in_channels, conv.out_channels)
    )
    narrow = type(conv)(
        inputs,
        outputs,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        # Piper's grouped layers have 4 input channels a group
        groups=1 if conv.groups == 1 else max(1, inputs // 4),
    )
    return nn.utils.weight_norm(narrow)


def randomize(network: nn.Module, seed: int, *, gain: float = 1.0) -> nn.Module:
    """Give every tensor values that are not its initial ones, none of them zero.

    At Piper's initial values most of the generator's gradients are zero, so nothing can be
    compared; and a weight normalisation at g == ||v|| hides a wrong norm. ``gain`` scales
    the normalised weights: narrow discriminators answer the same to everything without.
    """
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            shape = tuple(tensor.shape)
            if name.endswith("weight_g"):
                tensor *= torch.from_numpy(gain * rng.uniform(0.7, 1.4, shape)).to(tensor.dtype)
            elif tensor.dim() == 1 or not tensor.any() or name.endswith((".m", ".logs")):
                tensor += torch.from_numpy(rng.normal(0.0, 0.1, shape)).to(tensor.dtype)
    # (Of five million uniform numbers one or two may be zero.)
    for name, tensor in network.named_parameters():
        assert (tensor == 0).sum() <= 1e-6 * tensor.numel(), f"{name} has zeros"
    return network


# Flat dicts


def flat(network: nn.Module) -> Flat:
    """``state_dict`` as numpy arrays (copies)."""
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


def load(network: nn.Module, parameters: Mapping[str, np.ndarray]) -> nn.Module:
    """Put a flat dict into the network; names and shapes must all fit."""
    network.load_state_dict({name: torch.tensor(np.asarray(a)) for name, a in parameters.items()})
    return network


def gradients(network: nn.Module) -> Flat:
    """Gradients of the last backward pass; a tensor that got none has zeros."""
    return {
        name: np.zeros(tensor.shape, np.float32) if tensor.grad is None else tensor.grad.numpy()
        for name, tensor in network.named_parameters()
    }


def moments(network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Flat, Flat]:
    """AdamW's first and second moments under the parameters' names."""
    first, second = {}, {}
    for name, tensor in network.named_parameters():
        first[name] = optimizer.state[tensor]["exp_avg"].numpy()
        second[name] = optimizer.state[tensor]["exp_avg_sq"].numpy()
    return first, second


# Numbers


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Inside, new tensors are float64 and the oracle's ``.float()`` calls keep them so.

    Its Hann window follows the default dtype, librosa is asked for float64 filters; both are
    cached for good, so the caches are emptied afterwards.
    """
    mel_filters = mel_processing.librosa_mel_fn

    def mel_filters64(**options: object) -> np.ndarray:
        return mel_filters(**options, dtype=np.float64)

    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.object(torch.Tensor, "float", lambda self: self),
            mock.patch.object(mel_processing, "librosa_mel_fn", mel_filters64),
        ):
            yield
    finally:
        torch.set_default_dtype(torch.float32)
        forget_filters()


def forget_filters() -> None:
    """Empty the oracle's filter caches: their keys lack the sizes that tests vary."""
    mel_processing.mel_basis.clear()
    mel_processing.hann_window.clear()


# Audio


def dequantise(audio: np.ndarray) -> torch.Tensor:
    """int16 samples to [-1, 1) in the default dtype, as the trainers of both sides do."""
    return torch.tensor(audio, dtype=torch.get_default_dtype()) / 32768.0


def spectrogram(audio: AudioConfig, samples: np.ndarray) -> torch.Tensor:
    """[n] int16 -> [bins, n // hop]: one utterance, reflected at its own ends."""
    forget_filters()
    return mel_processing.spectrogram_torch(
        dequantise(samples)[None],
        audio.filter_length,
        audio.sample_rate,
        audio.hop_length,
        audio.win_length,
    )[0]


def spectrograms(audio: AudioConfig, batch: Mapping[str, np.ndarray]) -> torch.Tensor:
    """[B, bins, F]: each utterance's own spectrogram, then zeros as the oracle's collate pads."""
    rows, frames = len(batch["audio"]), batch["audio"].shape[1] // audio.hop_length
    result = torch.zeros(rows, audio.spec_channels, frames)
    for row in range(rows):
        own = spectrogram(audio, batch["audio"][row, : batch["audio_lengths"][row]])
        result[row, :, : own.shape[1]] = own
    return result


def mel(audio: AudioConfig, spec: torch.Tensor) -> torch.Tensor:
    """[..., bins, frames] -> [..., mels, frames], log compressed."""
    forget_filters()
    return mel_processing.spec_to_mel_torch(
        spec,
        audio.filter_length,
        audio.mel_channels,
        audio.sample_rate,
        audio.mel_fmin,
        audio.mel_fmax,
    )


def mel_of_signal(audio: AudioConfig, signal: torch.Tensor) -> torch.Tensor:
    """[B, n] -> [B, mels, n // hop]: as the generated segment is analysed."""
    forget_filters()
    return mel_processing.mel_spectrogram_torch(
        signal,
        audio.filter_length,
        audio.mel_channels,
        audio.sample_rate,
        audio.hop_length,
        audio.win_length,
        audio.mel_fmin,
        audio.mel_fmax,
    )


# Training


def torch_batch(config: Config, batch: Mapping[str, np.ndarray]) -> types.SimpleNamespace:
    """Our batch of int16 audio and ids as the oracle's batch of float audio and spectrograms."""
    several = config.model.num_speakers > 1
    lengths = torch.tensor(batch["audio_lengths"], dtype=torch.long)
    return types.SimpleNamespace(
        phoneme_ids=torch.tensor(batch["phoneme_ids"], dtype=torch.long),
        phoneme_lengths=torch.tensor(batch["phoneme_lengths"], dtype=torch.long),
        audios=dequantise(batch["audio"])[:, None],
        audio_lengths=lengths,
        spectrograms=spectrograms(config.audio, batch),
        spectrogram_lengths=lengths // config.audio.hop_length,
        speaker_ids=torch.tensor(batch["speaker_ids"], dtype=torch.long) if several else None,
    )


def losses(
    config: Config,
    network_g: nn.Module,
    network_d: nn.Module,
    batch: Mapping[str, np.ndarray],
    network_mrd: nn.Module | None = None,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Loss of G, loss of D and the terms, by the oracle's own training code."""
    trainer = types.SimpleNamespace(
        model_g=network_g,
        model_d=network_d,
        model_mrd=network_mrd,
        device=torch.device("cpu"),
        hparams=types.SimpleNamespace(
            **vars(config.audio),
            segment_size=config.model.segment_size,
            c_mel=config.optimizer.c_mel,
            c_kl=config.optimizer.c_kl,
        ),
    )
    forget_filters()
    return VitsModel._compute_loss(trainer, torch_batch(config, batch))


def optimizers(
    config: Config,
    network_g: nn.Module,
    network_d: nn.Module,
    network_mrd: nn.Module | None = None,
) -> tuple[torch.optim.AdamW, torch.optim.AdamW]:
    """AdamW for G, and for D with the discriminators of spectra, as the trainer makes them:
    weight decay is PyTorch's default."""
    trainer = types.SimpleNamespace(
        model_g=network_g,
        model_d=network_d,
        model_mrd=network_mrd,
        hparams=types.SimpleNamespace(**vars(config.optimizer)),
    )
    (optimizer_g, optimizer_d), _ = VitsModel.configure_optimizers(trainer)
    return optimizer_g, optimizer_d
