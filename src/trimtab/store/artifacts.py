"""Files that several machines work on: weights, adapters, data sets. Each is made once and then read anywhere.

A file is kept on this machine, as `blobs` does. Where `Settings.files_url` names an object store or a mounted volume,
what is made here is copied there, and what is missing here is fetched from there and checked.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.errors import Fixable
from trimtab.settings import Settings
from trimtab.store import blobs

if TYPE_CHECKING:
    from obstore.store import ObjectStore


def put_blob(settings: Settings, source: Path) -> str:
    """Keep a file under its SHA-256 (hex), which is returned. Raises Fixable when the shared store is away."""
    digest = blobs.put(settings.blobs, source)
    if settings.files_url:
        _send(settings.files_url, f"blobs/{digest}", blobs.path_of(settings.blobs, digest))
    return digest


def blob(settings: Settings, digest: str) -> Path:
    """A kept file on this machine, fetched if it is only in the shared store.

    Raises Fixable when there is none or the store is away, Corrupt when its bytes were changed.
    """
    if settings.files_url and not blobs.path_of(settings.blobs, digest).exists():
        with tempfile.TemporaryDirectory() as folder:
            fetched = Path(folder) / digest
            if _fetch(settings.files_url, f"blobs/{digest}", fetched):
                blobs.put(settings.blobs, fetched, digest)
    return blobs.get(settings.blobs, digest)


def share(settings: Settings, folder: Path) -> None:
    """Copy a data set's folder, named by its hash, to the shared store. Raises Fixable when that is away."""
    if settings.files_url:
        for file in sorted(folder.iterdir()):
            _send(settings.files_url, f"datasets/{folder.name}/{file.name}", file)


def dataset(settings: Settings, digest: str) -> Path:
    """The folder of a data set on this machine, fetched if it is only in the shared store. Raises as `blob` does."""
    target = settings.datasets / digest
    if target.exists() or not settings.files_url:
        return target
    settings.datasets.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.datasets) as folder:
        draft = Path(folder) / digest
        draft.mkdir()
        for name in _names(settings.files_url, f"datasets/{digest}"):
            _fetch(settings.files_url, f"datasets/{digest}/{name}", draft / name)
        draft.replace(target)
    return target


def _send(url: str, name: str, file: Path) -> None:
    """Copy a file, unless its name is taken: what has a name never changes."""
    import obstore
    from obstore.exceptions import BaseError

    try:
        store = _open(url)
        try:
            obstore.head(store, name)
        except FileNotFoundError:
            obstore.put(store, name, file)
    except (BaseError, OSError, ValueError) as error:
        raise _away(url, error) from error


def _fetch(url: str, name: str, target: Path) -> bool:
    import obstore
    from obstore.exceptions import BaseError

    try:
        found = obstore.get(_open(url), name)
        with target.open("wb") as file:
            for piece in found.stream():
                file.write(piece)
    except FileNotFoundError:
        return False
    except (BaseError, OSError, ValueError) as error:
        raise _away(url, error) from error
    return True


def _names(url: str, folder: str) -> list[str]:
    import obstore
    from obstore.exceptions import BaseError

    try:
        found = [entry["path"] for entries in obstore.list(_open(url), folder) for entry in entries]
    except (BaseError, OSError, ValueError) as error:
        raise _away(url, error) from error
    return [path.rpartition("/")[2] for path in found]


def _open(url: str) -> ObjectStore:
    """The store; who we are, it reads from its own variables (AZURE_*), as the Delta tables' reader does."""
    from obstore.store import from_url

    return from_url(url, mkdir=True) if url.startswith("file:") else from_url(url)  # pyright: ignore[reportCallIssue]


def _away(url: str, error: Exception) -> Fixable:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    fix = "see that the address is right and the store's variables (AZURE_*) let this machine in"
    return Fixable(f"the shared files at {url} cannot be reached: {first}", fix)
