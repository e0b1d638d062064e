"""Typed errors. Each message names the file, the place and the remedy; the CLI prints it and exits 1."""


class S3Error(Exception):
    """Base of every error the package raises on purpose."""


class DataError(S3Error, ValueError):
    """A corpus, question set or other input file is malformed."""


class ProfileError(S3Error, ValueError):
    """A profile is unknown or malformed."""


class RetrievalError(S3Error, RuntimeError):
    """An index or retriever cannot serve: wrong index, unknown encoder, no Java, dead server."""


class ModelError(S3Error, RuntimeError):
    """A model cannot be loaded or cannot answer."""


class StageError(S3Error, RuntimeError):
    """A stage cannot be written or resumed: full disk, inputs changed under it."""


class DownloadError(S3Error, RuntimeError):
    """Something on the hub cannot be had: unreachable, gated, damaged, or no room for it."""
