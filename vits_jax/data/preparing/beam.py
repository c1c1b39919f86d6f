"""The audio store by Apache Beam: recordings are prepared on a cluster's machines.

What one machine would have written is written: the same records, in the same order.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import importlib.util
import io
import logging
import pickle
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar

import numpy as np
import tensorflow_datasets as tfds

from vits_jax.data.checks import examine
from vits_jax.data.corpora.audio_files import Recording, Target
from vits_jax.data.corpora.settings import location
from vits_jax.data.storage import shards
from vits_jax.data.storage import store as stores
from vits_jax.data.unusable import Refused
from vits_jax.errors import RunFailed, UserError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Cluster:
    """Where a pipeline runs.

    Attributes:
        runner: Beam's name of it, such as ``DirectRunner``, ``DataflowRunner``.
        options: its flags, as on a command line.
        directory: that its machines and this one can all write to.
    """

    runner: str
    options: str
    directory: Path

    def pipeline_options(self) -> Any:
        """As Beam wants them."""
        from apache_beam.options.pipeline_options import PipelineOptions

        return PipelineOptions(shlex.split(self.options))


# Beam's own DirectRunner first asks the network for another program to run it.
_LOCAL = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def check_installed() -> None:
    """Raise `UserError` unless Beam is there."""
    if importlib.util.find_spec("apache_beam") is None:
        raise UserError("--beam-runner needs Apache Beam: pip install 'vits_jax[beam]'")


def submit(
    cluster: Cluster, function: Callable[..., _T], jobs: Iterable[tuple[Any, ...]]
) -> Iterator[_T]:
    """Jobs to their results in order, as `workers` does them; for small results."""
    import apache_beam as beam

    numbered = list(enumerate(jobs))
    if not numbered:
        return
    cluster.directory.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".beam-", dir=cluster.directory) as folder:
        with _pipeline(cluster) as pipeline:
            _ = (
                pipeline
                | beam.Create(numbered)
                | beam.Reshuffle()
                | beam.Map(functools.partial(_do, function))
                | beam.io.WriteToText(str(Path(folder, "results")))
            )
        results = _read_lines(Path(folder), "results")
    yield from (results[number] for number in range(len(numbered)))


def build(
    cluster: Cluster,
    parent: Path,
    mark: str,
    target: Target,
    sources: Sequence[Path],
    settings: str,
    digests: Sequence[bytes],
) -> list[stores.Outcome]:
    """`store.build` of recordings that the cluster prepares.

    Args:
        cluster: that does it.
        parent, mark, settings, digests: as there.
        target: what recordings are made into.
        sources: their files.

    Raises:
        RunFailed: the cluster did not end well.
    """
    destination = stores.store_path(parent, mark)
    with stores.building(destination) as temporary:
        facts = temporary / ".facts"
        facts.mkdir()
        config = tfds.download.DownloadConfig(
            beam_runner=_runner(cluster), beam_options=cluster.pipeline_options()
        )
        try:
            _write_records(temporary, config, sources, target, str(facts / "facts"))
        except ValueError as error:
            if "total number of generated examples is 0" not in str(error):
                raise RunFailed(f"Beam: {str(error).splitlines()[0]}") from error
            # All were refused, and the reasons went down with the pipeline.
            jobs = ((path, target) for path in sources)
            return list(submit(cluster, _refusal, jobs))
        known = _read_lines(facts, "facts")
        shutil.rmtree(facts)
        outcomes: list[stores.Outcome] = []
        samples: list[int] = []
        rows: list[tuple[Any, ...]] = []
        for number in range(len(sources)):
            if isinstance(known[number], Refused):
                outcomes.append(known[number])
            else:
                outcomes.append(len(samples))
                length, *fact = known[number]
                samples.append(length)
                rows.append(tuple(fact))
        rate = target.sample_rate
        stores.finish(temporary, destination, rate, outcomes, samples, rows, settings, digests)
    return outcomes


def _refusal(path: Path, target: Target) -> Refused:
    result = examine.record(path, target)
    assert isinstance(result, Refused), f"{path} was refused before"
    return result


def _write_records(
    directory: Path, config: Any, sources: Sequence[Path], target: Target, facts: str
) -> None:
    tfds.disable_progress_bar()  # it would count shards; the caller counts utterances
    builder = _Builder(
        data_dir=directory,
        file_format="array_record",
        sources=sources,
        target=target,
        facts=facts,
    )
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces itself with print
        builder.download_and_prepare(download_config=config)
    shutil.rmtree(directory / "downloads")  # always made, always empty


class _Builder(
    tfds.core.GeneratorBasedBuilder,
    skip_registration=True,  # type: ignore[call-arg]
):
    """The TFDS dataset of a store, from a pipeline; keys of examples are numbers, which sort."""

    name = shards.NAME
    VERSION = tfds.core.Version(shards.VERSION)
    # Nothing is downloaded. Looking for a checksum file beside this module would import
    # importlib_resources, which TFDS does not declare for these versions of Python.
    url_infos: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, *, sources: Sequence[Path], target: Target, facts: str, **kwargs: Any
    ) -> None:
        self._sources, self._target, self._facts = sources, target, facts
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        # Not shuffled: record i is the i-th example.
        return tfds.core.DatasetInfo(builder=self, features=shards.FEATURES, disable_shuffling=True)

    def _generate_examples(self) -> Iterator[Any]:
        return iter(())  # TFDS asks for it; the examples come from the pipeline

    def _split_generators(  # TFDS looks at the name of the argument
        self, dl_manager: Any, pipeline: Any
    ) -> dict[str, Any]:
        import apache_beam as beam

        prepared = (
            pipeline
            | beam.Create(list(enumerate(map(str, self._sources))))
            | beam.Reshuffle()
            | beam.Map(functools.partial(_prepare, self._target))
        )
        _ = (
            prepared
            | "Facts" >> beam.Map(_facts_line)
            | beam.io.WriteToText(self._facts)
        )  # fmt: skip
        return {shards.SPLIT: prepared | "Audio" >> beam.FlatMap(_example)}


def _do(function: Callable[..., Any], job: tuple[int, tuple[Any, ...]]) -> str:
    number, arguments = job
    return _line(number, function(*arguments))


def _prepare(target: Target, source: tuple[int, str]) -> tuple[int, Recording | Refused]:
    number, path = source
    return number, examine.record(location(path), target)


def _facts_line(prepared: tuple[int, Recording | Refused]) -> str:
    number, result = prepared
    if isinstance(result, Refused):
        return _line(number, result)
    return _line(number, (len(result.samples), *tuple(result)[1:]))


def _example(
    prepared: tuple[int, Recording | Refused],
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    number, result = prepared
    if not isinstance(result, Refused):
        yield number, {"audio": result.samples}


def _line(number: int, result: Any) -> str:
    return base64.b64encode(pickle.dumps((number, result))).decode()


def _read_lines(folder: Path, name: str) -> dict[int, Any]:
    """What the pipeline's machines wrote; ours, so it may be unpickled."""
    found: dict[int, Any] = {}
    for path in sorted(folder.glob(f"{name}*")):
        with path.open("rb") as file:
            found.update(pickle.loads(base64.b64decode(line)) for line in file)
    return found


def _runner(cluster: Cluster) -> Any:
    from apache_beam.runners.runner import create_runner

    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    local = cluster.runner.lower() in ("direct", "directrunner")
    try:
        return create_runner(_LOCAL if local else cluster.runner)
    except (ValueError, ImportError) as error:
        raise UserError(f"--beam-runner {cluster.runner}: {str(error).splitlines()[0]}") from error


def _pipeline(cluster: Cluster) -> Any:
    import apache_beam as beam

    return beam.Pipeline(runner=_runner(cluster), options=cluster.pipeline_options())
