"""``python -m vits_jax.metrics.of_folder FOLDER``: scores of the clips that lie there.

A process of its own, so that nobody waits for networks and recognisers. ``clips.json`` in the
folder says what is there, and ``metrics.json`` is written: what `scoring.Table.to_dict` gives.

    {"language": "en-us", "metrics": ["mcd", "wer"], "clips": [
        {"spoken": "0.flac", "recording": "../recordings/0.flac", "text": "One.", "speaker": "2"}]}
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vits_jax import files
from vits_jax.errors import UserError
from vits_jax.metrics.built_in import selected
from vits_jax.metrics.clips import read
from vits_jax.metrics.plugins import plugin
from vits_jax.metrics.scoring import score

ASKED, FOUND = "clips.json", "metrics.json"


def score_folder(folder: Path) -> None:
    """Score what lies in `folder`.

    Raises:
        UserError: something of it cannot be read, or the result not written.
    """
    asked = json.loads((folder / ASKED).read_text(encoding="utf-8"))
    clips = []
    for each in asked["clips"]:
        known = {"text": each["text"], "speaker": each["speaker"]}
        reference = read(folder / each["recording"], **known)
        clips.append(read(folder / each["spoken"], **known, reference=reference))
    recordings = [clip.reference for clip in clips if clip.reference is not None]
    names = [name for name in asked["metrics"] if ":" not in name]
    metrics = selected(",".join(names)) if names else []
    metrics += [plugin(name) for name in asked["metrics"] if ":" in name]
    table = score(clips, recordings, metrics, language=asked["language"])
    files.write({folder / FOUND: json.dumps(table.to_dict()).encode()})


if __name__ == "__main__":
    try:
        score_folder(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(str(error))
