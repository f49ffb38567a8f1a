"""Files and directories that a job keeps beside its working copy."""

from __future__ import annotations

import os

from . import _client, _console, _context, _ending, _track, _tracking
from ._errors import NotFoundError, TrackError
from ._values import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, Optional, Tuple

    Stat = Tuple[int, int]

_TENSORBOARD_KEY = "__tensorboard__"
# What a file name may have, in bytes, with room for a number.
_NAME_MAX = 200

# Artifacts that this process has kept: key to the name under which the file lies.
_kept: Dict[str, str] = {}


def save_artifact(filepath: str, key: Optional[str] = None) -> None:
    """Keeps a copy of a file with the job.

    :param filepath: the file as it is now; changing it later changes nothing.
    :param key: the name in listings; None: the file's own name. A second file under the same key replaces the
        first, with a warning. Two files of the same name under different keys are both kept.
    :raises FileNotFoundError, IsADirectoryError, PermissionError: it cannot be read.
    :raises TrackError: it could not be copied, for example because the disk is full.

    Example::

        >>> import foundations
        >>> with open("model.txt", "w") as file:
        ...     _ = file.write("weights")
        >>> foundations.save_artifact("model.txt", key="model")
    """
    folder, track = _context.artifacts_dir(), _track.current()
    if folder is None or track is None:
        _console.warning("Cannot save artifact outside of job.")
        return
    filepath = os.fspath(filepath)
    if os.path.isdir(filepath):
        raise IsADirectoryError(
            "{} is a directory; keep one with create_syncable_directory, or pack it into a file".format(filepath)
        )
    basename = os.path.basename(filepath)
    key = basename if key is None else str(key)
    before = _kept.get(key)
    if before is not None:
        _console.warning('Artifact "{}" already exists - overwriting.'.format(key))
    filename = _copy_in(filepath, folder, basename, before)
    encoded = _track.line('"a"', quote(key), quote(filename), _mime(basename))
    _track.check_length(encoded, "the name of artifact `{}`".format(key[:30]), "shorten it")
    track.write(encoded)
    _kept[key] = filename
    if before not in (None, filename):
        # The line above names the new file: nobody looks for the old one any more.
        _remove(os.path.join(folder, str(before)))


def create_syncable_directory(
    key: str, directory_path: Optional[str] = None, source_job_id: Optional[str] = None
) -> SyncableDirectory:
    """A directory that can be kept with the job, and brought back from it or from an earlier one.

    :param key: names it; a job that continues another one's work uses the same key.
    :param directory_path: where it lies, made if need be; None: a new temporary directory.
    :param source_job_id: the job whose files are brought here at once; None: this one (an earlier attempt of it).
    :raises NotFoundError: there is no job `source_job_id`.
    :raises DaemonError: no daemon answers, where another job's files are wanted.

    Example::

        >>> import foundations
        >>> directory = foundations.create_syncable_directory("checkpoints", "checkpoints")
        >>> str(directory)
        'checkpoints'
        >>> directory.upload()
    """
    return SyncableDirectory(key, directory_path, source_job_id)


def set_tensorboard_logdir(path: str) -> None:
    """Keeps TensorBoard's directory with the job when the process ends, and tags the job ``tf``.

    Example::

        import foundations
        foundations.set_tensorboard_logdir("runs")
    """
    if not _context.is_tracked():
        _console.not_a_job()
        return
    directory = SyncableDirectory(_TENSORBOARD_KEY, path, None)
    _ending.at_end(directory.upload)
    _tracking.set_tag("tf", "tf")


class SyncableDirectory:
    """A directory with `upload()` and `download()`; its string is its path.

    In both directions only files move that are new or have changed (size or time of change). A file that is gone
    on one side stays on the other.
    """

    def __init__(self, key: str, directory_path: Optional[str], source_job_id: Optional[str]) -> None:
        if directory_path is None:
            from tempfile import mkdtemp

            directory_path = mkdtemp(prefix="foundations-")
        self._key = str(key)
        self._path = os.fspath(directory_path)
        self._source = source_job_id
        # What was brought here: name to what the source said of it, so that it is brought again only when changed.
        self._brought: Dict[str, Tuple[Any, Optional[Stat]]] = {}
        os.makedirs(self._path, exist_ok=True)
        self.download()

    def __str__(self) -> str:
        return self._path

    def __fspath__(self) -> str:
        return self._path

    def __repr__(self) -> str:
        return "SyncableDirectory({!r}, {!r})".format(self._key, self._path)

    def upload(self) -> None:
        """Keeps what is in the directory now with this job.

        :raises TrackError: a file could not be copied. Outside of a job: a warning.
        """
        folder, track = _context.artifacts_dir(), _track.current()
        if folder is None or track is None:
            _console.warning("local_job_id required for uploading artifacts")
            return
        name = _folder_name(self._key)
        for relative in _files(self._path):
            source, target = os.path.join(self._path, relative), os.path.join(folder, name, relative)
            if _stat(source) != _stat(target):
                _copy(source, target)
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        track.write(_track.line('"s"', quote(self._key), quote(name)))

    def download(self) -> None:
        """Brings the files that the source job kept under this key.

        :raises NotFoundError: there is no such job.
        :raises DaemonError: no daemon answers. Without a source job and outside of a job nothing happens.
        """
        source = self._source or _context.job_id()
        if source is None:
            return
        folder = _context.artifacts_dir()
        if source == _context.job_id() and folder is not None:
            kept = os.path.join(folder, _folder_name(self._key))
            if os.path.isdir(kept):
                self._bring_local(kept)
            if not self._source:
                # A job's own earlier attempts are its own node's business: no question is asked at each start.
                return
        self._bring(source)

    def _bring_local(self, kept: str) -> None:
        for relative in _files(kept):
            source, target = os.path.join(kept, relative), os.path.join(self._path, relative)
            theirs, ours = _stat(source), _stat(target)
            # What was changed here since it was uploaded is not taken back.
            if theirs is not None and (ours is None or theirs[1] > ours[1]):
                _copy(source, target)

    def _bring(self, job_id: str) -> None:
        client = _client.default()
        prefix = _folder_name(self._key) + "/"
        for artifact in client.job(job_id).get("artifacts") or []:
            filename = artifact.get("filename", "")
            if not filename.startswith(prefix):
                continue
            relative = _inside(filename[len(prefix) :])
            target = os.path.join(self._path, relative)
            said = (artifact.get("content"), artifact.get("size"))
            if said[0] is not None and self._brought.get(relative) == (said, _stat(target)):
                continue
            try:
                _write(target, client.artifact(job_id, filename))
            except NotFoundError:
                _console.warning("{} of job {} is on no node that can be reached".format(filename, job_id))
                continue
            self._brought[relative] = (said, _stat(target))


def _copy_in(filepath: str, folder: str, basename: str, before: Optional[str]) -> str:
    """Copies a file into the artifacts directory under a name that no other has; returns the name."""
    from shutil import copyfileobj

    with open(filepath, "rb") as source:
        try:
            os.makedirs(folder, exist_ok=True)
            if before is not None and _is_version_of(before, basename):
                # Replaced in one step: a reader finds the old file or the new one.
                _replace(source, os.path.join(folder, before))
                return before
            name, descriptor = _create(folder, _short(basename))
            with os.fdopen(descriptor, "wb") as target:
                copyfileobj(source, target, 1 << 20)
            return name
        except OSError as error:
            raise TrackError(
                error.errno, "cannot keep {}: {}; it is not saved".format(filepath, error.strerror)
            ) from error


def _create(folder: str, basename: str) -> Tuple[str, int]:
    stem, ending = os.path.splitext(basename)
    number = 1
    while True:
        name = basename if number == 1 else "{}-{}{}".format(stem, number, ending)
        try:
            return name, os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            number += 1


def _is_version_of(name: str, basename: str) -> bool:
    """Whether `name` is what `_create` may have made of `basename`."""
    (stem, ending), (wanted, wanted_ending) = os.path.splitext(name), os.path.splitext(_short(basename))
    number = stem[len(wanted) :]
    return ending == wanted_ending and stem.startswith(wanted) and (not number or number[1:].isdigit())


def _replace(source: Any, path: str) -> None:
    from shutil import copyfileobj

    # Beside it, so that the rename stays within one file system; the name tells the node that it is no artifact.
    aside = os.path.join(os.path.dirname(path), ".{}.{}.part".format(os.path.basename(path), os.getpid()))
    try:
        with open(aside, "wb") as target:
            copyfileobj(source, target, 1 << 20)
        os.replace(aside, path)
    except BaseException:
        _remove(aside)
        raise


def _copy(source: str, target: str) -> None:
    """Copies a file with its time of change, by which the next comparison goes."""
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(source, "rb") as file:
            before = os.fstat(file.fileno())
            _replace(file, target)
        # As it was before the copy: what changes meanwhile is copied again next time.
        os.utime(target, ns=(before.st_mtime_ns, before.st_mtime_ns))
    except FileNotFoundError:
        # It was removed since it was listed, as logs that rotate are.
        return
    except OSError as error:
        raise TrackError(error.errno, "cannot copy {} to {}: {}".format(source, target, error.strerror)) from error


def _write(target: str, pieces: Iterator[bytes]) -> None:
    first = next(pieces, b"")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    aside = "{}.{}.part".format(target, os.getpid())
    try:
        with open(aside, "wb") as file:
            file.write(first)
            for piece in pieces:
                file.write(piece)
        os.replace(aside, target)
    except BaseException:
        _remove(aside)
        raise


def _files(root: str) -> Iterator[str]:
    """Files below a directory, relative to it."""
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not (name.startswith(".") and name.endswith(".part")):
                yield os.path.relpath(path, root)


def _stat(path: str) -> Optional[Stat]:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _inside(relative: str) -> str:
    """A name from another job, once it is sure that it stays within the directory."""
    parts = relative.split("/")
    if not relative or os.path.isabs(relative) or any(part in ("", ".", "..") for part in parts) or "\0" in relative:
        raise TrackError(
            0, "the job kept a file as {!r}, which would leave the directory; it is not brought".format(relative)
        )
    return os.path.join(*parts)


def _folder_name(key: str) -> str:
    """The directory for a key, the same in every job: letters and digits stay, the rest is escaped."""
    from urllib.parse import quote as escape

    return "synced-" + escape(key, safe="")[:_NAME_MAX]


def _short(basename: str) -> str:
    """A file name with room for a number; long ones lose their middle."""
    if len(os.fsencode(basename)) <= _NAME_MAX:
        return basename
    stem, ending = os.path.splitext(basename)
    return stem[: _NAME_MAX // 8] + "~" + ending[: _NAME_MAX // 8]


def _mime(basename: str) -> str:
    from mimetypes import guess_type

    guessed = guess_type(basename)[0]
    return quote(guessed) if guessed else "null"


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except OSError:
        return
