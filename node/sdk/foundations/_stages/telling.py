"""What parts of a graph did becomes what the graph's job did: output, metrics, parameters, tags, files."""

from __future__ import annotations

import json
import os
import sys

from .. import _client, _console, _context, _track
from .._errors import DaemonError
from . import parcel, part
from .call import Called, Tracked, replay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

    from .conduct import Part


def tell(one: Part) -> None:
    """Tells what a part that has ended printed and tracked; what goes wrong is said, and ends nothing."""
    name = one.stage.function_name()
    try:
        _print(_client.default().log(one.job or ""))
    except DaemonError as error:
        _console.warning("what stage {} printed is not told: {}".format(name, error))
    replay(one.told.get("lines", ()), is_now=False)
    words = one.told.get("files")
    if not words:
        return
    try:
        _keep(words, parcel.get(part.files_key(one.job or "")))
    except (parcel.Missing, OSError) as error:
        _console.warning("files of stage {} are not kept: {}".format(name, error))


def _print(log: bytes) -> None:
    if not log:
        return
    sys.stdout.flush()
    text = log.decode("utf-8", "replace")
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def _keep(words: Dict[str, List[Any]], contents: Dict[str, Any]) -> None:
    """As if the stage had kept its files here."""
    from tempfile import TemporaryDirectory

    from .. import _artifacts

    folder, track = _context.artifacts_dir(), _track.current()
    if folder is None or track is None:
        return
    for name, word in words.items():
        if os.sep not in name:
            with TemporaryDirectory(prefix="foundations-") as aside:
                path = os.path.join(aside, name)
                _write(path, contents[name])
                _artifacts.save_artifact(path, word[1])
            continue
        # Of a directory: names are its own, and a later file replaces an earlier one.
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _write(path, contents[name])
        track.write(json.dumps(word, separators=(",", ":")).encode("utf-8") + b"\n")


def _write(path: str, content: Any) -> None:
    with open(path, "wb") as file:
        file.write(content)


def found_again() -> Called:
    """A stage whose result an earlier attempt of the job has left."""
    called = Called(Tracked())
    called.entry.update(state="completed", seconds=0.0, meta_data={}, log=[])
    return called
