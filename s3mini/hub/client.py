"""One file from the hub at a time: listed, fetched, resumed, verified.

The hub's own client does the talking (names, redirects, tokens, offline mode, ``HF_ENDPOINT``). Two things are added: a
transfer that was cut off goes on where it stopped, in a later process too (the client drops what a killed process
had; an index part has 40 GB), and every file is checked against the hash that the hub lists, not only its size.
"""

import errno
import fnmatch
import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ..errors import DownloadError

log = logging.getLogger("s3mini")
T = TypeVar("T")

TRIES = 5  # attempts in a row that bring no byte, before a transfer is given up
WAIT = 1.0  # seconds before the second attempt; doubled each time
_FINAL = {400, 401, 403, 404, 410, 416, 451}  # asking again will not help


@dataclass(frozen=True, slots=True)
class Source:
    """Files of one repository, by patterns (``*`` crosses folders); or one ``url`` elsewhere, when ``repo`` only names it."""

    repo: str
    files: tuple[str, ...] = ("*",)
    kind: str = "dataset"  # or "model"
    revision: str = "main"
    without: tuple[str, ...] = ()
    url: str | None = None


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as the hub lists it. ``sha256`` is known for large files, ``blob`` (git's SHA-1) for small ones."""

    source: Source
    path: str
    size: int | None
    commit: str | None = None
    sha256: str | None = None
    blob: str | None = None

    def __str__(self) -> str:
        return f"{self.source.repo}/{self.path}"

    def problem(self, copy: Path) -> str | None:
        """What is wrong with a local copy; None when size and hash are as listed."""
        size = copy.stat().st_size
        if self.size is not None and size != self.size:
            return f"{size} bytes where the hub lists {self.size}"
        digest, wanted, name = hashlib.sha256(), self.sha256, "SHA-256"
        if wanted is None:
            digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
            wanted, name = self.blob, "git hash"
        if wanted is None:
            return None
        with open(copy, "rb") as data:
            same = hashlib.file_digest(data, lambda: digest).hexdigest() == wanted
        return None if same else f"its {name} differs"


class Hub:
    """The hub, or whatever ``HF_ENDPOINT`` names.

    Every method raises `DownloadError` when it cannot have its answer; the message says what to do.
    """

    def __init__(self) -> None:
        from huggingface_hub import constants

        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self._away: DownloadError | None = None  # what asking ended with, when nobody answered

    def list(self, source: Source) -> list[HubFile]:
        """The source's files, in order of their names, with sizes in bytes and hashes."""
        if self._away is not None:
            raise self._away
        from huggingface_hub import HfApi, get_hf_file_metadata

        if (url := source.url) is not None:
            size = self._persist(lambda: get_hf_file_metadata(url, token=False).size, source.repo)
            return [HubFile(source, url.rpartition("/")[2], size)]

        def ask() -> list[HubFile]:
            api = HfApi(endpoint=self.endpoint)
            about = api.dataset_info if source.kind == "dataset" else api.model_info
            info: Any = about(source.repo, revision=source.revision, files_metadata=True)
            files = [
                HubFile(source, s.rfilename, s.size, info.sha, s.lfs.sha256 if s.lfs else None, s.blob_id)
                for s in info.siblings or ()
                if _matches(s.rfilename, source.files) and not _matches(s.rfilename, source.without)
            ]
            return sorted(files, key=lambda file: file.path)

        listed = self._persist(ask, source.repo)
        for pattern in source.files if source.kind == "dataset" else ():
            if not any(fnmatch.fnmatch(file.path, pattern) for file in listed):
                raise DownloadError(f"{source.repo}: no file {pattern!r} there; it was moved or renamed")
        for path in (file.path for file in listed):
            if ".." in PurePosixPath(path).parts or path.startswith("/"):
                raise DownloadError(f"{source.repo}: lists {path!r}, outside its own folder; not fetched")
        return listed

    def fetch(self, file: HubFile, folder: Path) -> Path:
        """``folder/file.path``, verified: a sound copy is left, a started one continued, a damaged one fetched anew, once."""
        path = folder / file.path
        if path.is_file() and file.problem(path) is None:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        identity = (file.sha256 or file.blob or str(file.size))[:16]  # never continue another version's
        part = path.with_name(f".{path.name}.{identity}.part")

        def get(force: bool) -> Path:
            return self._persist(lambda: self._transfer(file, part), str(file), part)

        return self._sound(file, get).replace(path)

    def fetch_cached(self, file: HubFile) -> Path:
        """The file in the hub client's own cache, where models are loaded from; verified as `fetch` does."""
        from huggingface_hub import hf_hub_download

        source = file.source
        ask = partial(hf_hub_download, source.repo, file.path, repo_type=source.kind, endpoint=self.endpoint)
        ask = partial(ask, revision=source.revision)  # by name, so that loading by that name finds it offline
        return self._sound(
            file, lambda again: Path(self._persist(partial(ask, force_download=again), str(file)))
        )

    def _sound(self, file: HubFile, get: Callable[[bool], Path]) -> Path:
        """The file that ``get`` fetches, verified; a damaged one is removed and fetched anew (``get(True)``), once."""
        for force in (False, True):
            path = get(force)
            if (problem := file.problem(path)) is None:
                return path
            path.unlink()
            log.warning("%s: %s; fetching it again", file, problem)
        raise DownloadError(
            f"{file}: {problem}, twice in a row: the copy that {self.endpoint} gives is damaged, or something between "
            "damages it; try again later, or name another endpoint by HF_ENDPOINT"
        )

    def _transfer(self, file: HubFile, part: Path) -> Path:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        source, headers, location = file.source, build_hf_headers(token=False), file.source.url
        if location is None:
            ask = partial(hf_hub_url, source.repo, file.path, repo_type=source.kind, endpoint=self.endpoint)
            location = get_hf_file_metadata(ask(revision=file.commit), endpoint=self.endpoint).location
            if location.startswith(self.endpoint + "/"):  # a token is for the hub, not for its storage
                headers = build_hf_headers()
        with open(part, "ab") as out:
            if file.size is not None and out.tell() > file.size:
                out.truncate(0)
            http_get(
                location, out, resume_size=out.seek(0, os.SEEK_END), headers=headers, expected_size=file.size,
                displayed_filename=str(file),
            )  # fmt: skip
        return part

    def _persist(self, attempt: Callable[[], T], what: str, grows: Path | None = None) -> T:
        """``attempt()``, repeated while the connection fails; progress on ``grows`` resets the count."""
        import httpx
        from huggingface_hub import constants
        from huggingface_hub.errors import HfHubHTTPError

        failures, before = 0, -1
        while True:
            try:
                return attempt()
            except (httpx.HTTPError, OSError) as error:
                if constants.is_offline_mode():
                    raise DownloadError(
                        f"{what}: not here yet, and HF_HUB_OFFLINE forbids asking for it; unset it, or run the same "
                        "command on a machine with a connection and copy the data folder and the hub's cache"
                    ) from error
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES):
                    raise
                status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
                if status in _FINAL:
                    raise DownloadError(f"{what}: {_refusal(error, status)}") from error
                now = grows.stat().st_size if grows is not None and grows.exists() else -1
                failures = 1 if now > before else failures + 1
                before = max(before, now)
                if failures >= TRIES:
                    gone = DownloadError(
                        f"{what}: {self.endpoint} cannot be reached or keeps failing ({type(error).__name__}: {error}); "
                        "what came is kept: run the same command again to go on"
                    )
                    if isinstance(error, httpx.ConnectError):
                        self._away = gone
                    raise gone from error
                log.warning("%s: %s; trying again", what, error)
                time.sleep(WAIT * 2 ** (failures - 1))
            except (httpx.InvalidURL, ImportError, ValueError) as error:  # before anything was sent
                raise DownloadError(
                    f"{what}: no connection can be made ({str(error).rstrip('.')}); mend the environment's proxy "
                    "(HTTPS_PROXY, ALL_PROXY; for socks5: pip install 'httpx[socks]') or HF_ENDPOINT"
                ) from error


def _refusal(error: Exception, status: int | None) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return "its owner asks for consent; accept the conditions on its page, then log in: hf auth login"
    if isinstance(error, RepositoryNotFoundError):
        return "no such repository, or a private one: check the name; for a private one log in: hf auth login"
    return f"the hub refuses it (status {status}): {error}"


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)
