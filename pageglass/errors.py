"""Everything Pageglass raises on purpose.

    PageglassError
    ├── UsageError              the caller asked for something that cannot be done
    │   ├── QuestionError       empty or too long
    │   ├── CollectionNameError a collection name that is no plain name
    │   ├── CollectionNotFound  no document is in a collection of this name
    │   ├── DocumentNotFound    no document has this id
    │   ├── DocumentExists      another document has the name of an upload
    │   ├── JobNotFound         no job has this id
    │   ├── JobConflict         the job is not in a state in which that can be done
    │   ├── PageNotFound        the document has no such page
    │   ├── ChatModelNotFound   no collection is called like the model of a chat
    │   ├── SchemaError         the schema to extract by cannot be followed
    │   ├── ImageError          the question's picture is damaged, too large or no picture
    │   ├── NotInProfile        it needs a model that the profile in use does not have
    │   └── SettingsError       an unknown or impossible setting
    ├── AccessError             the caller may not do this
    │   ├── KeyMissing          the server wants an API key
    │   ├── KeyInvalid          the API key is unknown, expired or revoked
    │   └── KeyForbidden        the API key does not reach so far
    ├── Overload                too much at a time; ``retry_after`` says when to come back
    │   ├── TooManyRequests     more requests a minute than are allowed
    │   └── Busy                more questions wait than the server lets wait
    ├── DocumentError           this file cannot become pages; trying again will not help
    │   ├── NotADocument        empty, damaged beyond repair, or not what it claims to be
    │   ├── EncryptedDocument   needs a password
    │   ├── FormatUnsupported   of a kind that this installation cannot make pages of
    │   ├── DocumentRemoved     a person removed this content of a watched folder
    │   └── LimitExceeded       larger, longer or slower than a limit allows
    ├── FileChanged             the file changed while it was read; the next look takes it
    ├── StoreError              the data folder or an index cannot be used as it is
    │   ├── NoDataFolder        nothing of ours is in the folder
    │   ├── FolderInUse         another process owns the data folder
    │   ├── DiskFull            too little room is left to go on safely
    │   ├── IndexMismatch       the index was made by other models or settings
    │   ├── StoreDamaged        a catalog or an index is lost or damaged
    │   └── StoreUnreachable    the Qdrant server does not answer, or not in time
    ├── ModelError              a model file is missing, damaged or unusable
    │   ├── MissingExtra        a library of an extra is not installed
    │   ├── OutOfMemory         the device's memory does not hold even one page
    │   ├── PromptTooLong       the pages are more than the model can read at once
    │   └── ModelServerError    the model's server does not answer, refuses, or answers nonsense
    │       └── ModelTimeout    ... or not in the time it was given
    └── ServerError             a Pageglass server answered with a problem, or not at all

Each class carries a stable ``code`` (used by the HTTP API's problem documents and by ``--json``)
and the HTTP ``status`` it becomes. The message is one line, for everybody, and says what to do.
What only whoever runs the server can do (a command, a setting) is the ``hint``: the command line
and the log show it, the page, HTTP clients and assistants never see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

_NAMES_SHOWN = 20


class PageglassError(Exception):
    """Anything Pageglass raises on purpose; the message is one line and says what to do."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    hint: str = ""
    """What whoever runs the server can do; "" where the message says it all."""

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        """``hint`` takes the place of the class's own."""
        super().__init__(message)
        if hint:
            self.hint = hint

    @property
    def for_operator(self) -> str:
        """The message and the hint, on one line."""
        return f"{self} ({self.hint})" if self.hint else str(self)


class UsageError(PageglassError):
    """The caller asked for something that cannot be done."""

    code = "usage"
    status = 422


class QuestionError(UsageError):
    """The question is empty or too long."""

    code = "question-invalid"


class CollectionNameError(UsageError):
    """A collection name is not a plain name."""

    code = "collection-name-invalid"


class CollectionNotFound(UsageError):
    """No document is in a collection of this name."""

    code = "collection-not-found"
    status = 404

    @classmethod
    def of(cls, name: str, known: Sequence[str]) -> Self:
        """What is said where only ``known`` ones are there, as far as the caller may know."""
        shown = ", ".join(known[:_NAMES_SHOWN])
        more = f" and {len(known) - _NAMES_SHOWN:,} more" if len(known) > _NAMES_SHOWN else ""
        there = f"there are {shown}{more}" if len(known) > 1 else f"there is {shown}"
        return cls(f"no collection {name!r}: {there if known else 'nothing is indexed yet'}")


class DocumentNotFound(UsageError):
    """No document has this id."""

    code = "document-not-found"
    status = 404
    hint = "`pageglass status` lists them"

    @classmethod
    def of(cls, document_id: str) -> Self:
        """What is said of one that is not there, or not for the caller to see."""
        return cls(f"no document {document_id[:64]!r}")


class JobNotFound(UsageError):
    """No job has this id."""

    code = "job-not-found"
    status = 404
    hint = "`pageglass jobs` lists them"

    @classmethod
    def of(cls, document_id: str) -> Self:
        """What is said of one that is not there, or not for the caller to see."""
        return cls(f"no job {document_id[:64]!r}")


class DocumentExists(UsageError):
    """Another document has this name, and was not to be replaced."""

    code = "document-exists"
    status = 409


class JobConflict(UsageError):
    """The job is not in a state in which that can be done."""

    code = "job-conflict"
    status = 409


class PageNotFound(UsageError):
    """The document has no such page."""

    code = "page-not-found"
    status = 404


class ChatModelNotFound(UsageError):
    """No collection is called like the model of a chat."""

    code = "model-not-found"
    status = 404


class SchemaError(UsageError):
    """The schema to extract by cannot be followed."""

    code = "schema-invalid"


class ImageError(UsageError):
    """The question's picture is damaged, too large or no picture."""

    code = "image-invalid"


class NotInProfile(UsageError):
    """It needs a model that the profile in use does not have."""

    code = "not-in-profile"
    status = 501


class SettingsError(UsageError):
    """A setting is unknown or impossible."""

    code = "settings-invalid"


class AccessError(PageglassError):
    """The caller may not do this."""

    code = "access"
    status = 403


class KeyMissing(AccessError):
    """The server wants an API key."""

    code = "key-missing"
    status = 401


class KeyInvalid(AccessError):
    """The API key is unknown, expired or revoked."""

    code = "key-invalid"
    status = 401


class KeyForbidden(AccessError):
    """The API key does not reach so far."""

    code = "key-forbidden"


class Overload(PageglassError):
    """Too much at a time."""

    code = "overload"
    status = 503

    def __init__(self, message: str, retry_after: float | None = None, *, hint: str = "") -> None:
        """``retry_after`` is in seconds; None where nothing can be said."""
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class TooManyRequests(Overload):
    """More requests a minute than are allowed."""

    code = "too-many-requests"
    status = 429


class Busy(Overload):
    """More questions wait than the server lets wait."""

    code = "busy"


class DocumentError(PageglassError):
    """This file cannot become pages; trying again will not help."""

    code = "document-invalid"
    status = 422


class NotADocument(DocumentError):
    """Empty, damaged beyond repair, or not what it claims to be."""

    code = "not-a-document"


class EncryptedDocument(DocumentError):
    """The file needs a password."""

    code = "document-encrypted"


class FormatUnsupported(DocumentError):
    """The file is of a kind that this installation cannot make pages of."""

    code = "format-unsupported"
    status = 415


class DocumentRemoved(DocumentError):
    """A person removed this content of a watched folder."""

    code = "document-removed"
    status = 410


class LimitExceeded(DocumentError):
    """Larger, longer or slower than a limit allows."""

    code = "limit-exceeded"
    status = 413


class FileChanged(PageglassError):
    """The file changed while it was read; the next look takes it."""

    code = "file-changed"
    status = 409


class StoreError(PageglassError):
    """The data folder or an index cannot be used as it is."""

    code = "store-unusable"
    status = 503


class NoDataFolder(StoreError):
    """There is no data folder there."""

    code = "no-data-folder"
    status = 404

    @classmethod
    def of(cls, folder: object) -> NoDataFolder:
        """The error for a folder that holds nothing of ours, or is not there."""
        return cls(
            f"{folder} is no data folder: `pageglass ingest PATH` makes one there; --data-dir or"
            " PAGEGLASS_DATA_DIR names another"
        )


class FolderInUse(StoreError):
    """Another process owns the data folder."""

    code = "folder-in-use"
    status = 409


class DiskFull(StoreError):
    """Too little room is left on the data folder's disk to go on safely."""

    code = "disk-full"
    status = 507


class IndexMismatch(StoreError):
    """The index was made by other models or settings."""

    code = "index-mismatch"
    status = 409


class StoreDamaged(StoreError):
    """A catalog or an index is lost or damaged."""

    code = "store-damaged"


class StoreUnreachable(StoreError):
    """The Qdrant server does not answer, or not in time."""

    code = "store-unreachable"


class ModelError(PageglassError):
    """A model file is missing, damaged or unusable."""

    code = "model-unusable"
    status = 503


class MissingExtra(ModelError):
    """A library of an extra is not installed; the message is the command that installs it."""

    code = "extra-missing"
    status = 501


class OutOfMemory(ModelError):
    """The device's memory does not hold even one page."""

    code = "out-of-memory"


class PromptTooLong(ModelError):
    """The pages are more than the model can read at once."""

    code = "prompt-too-long"
    status = 413


class ModelServerError(ModelError):
    """The model's server does not answer, refuses, or answers nonsense."""

    code = "model-server-error"
    status = 502


class ModelTimeout(ModelServerError):
    """The model did not answer in the time it was given."""

    code = "model-timeout"
    status = 504


class ServerError(PageglassError):
    """A Pageglass server answered with a problem, or did not answer."""

    code = "server-error"
    status = 502
