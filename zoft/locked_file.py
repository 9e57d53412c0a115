"""A file that at most one process writes: what two runs in one output_dir would do to a log cannot happen."""

from __future__ import annotations

import fcntl
import os
import warnings
import weakref
from pathlib import Path
from typing import ClassVar

from zoft.errors import ReplayError, ZoftWarning


class LockedFile:
    """A file open for writing under an advisory lock; get one by :meth:`of`, and drop it to close and unlock.

    The lock is the kernel's (``flock``): it ends with the process, however that ends, so a killed run leaves
    none behind. Within one process all users of a file share one object, hence one lock.

    Attributes:
        descriptor: The open file; its bytes are written by ``os.pwrite``.
    """

    _open: ClassVar[weakref.WeakValueDictionary[tuple[int, int], LockedFile]] = weakref.WeakValueDictionary()

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def of(cls, path: Path, *, create: bool = False) -> LockedFile:
        """Open a file for writing and lock it.

        Args:
            path: The file.
            create: Whether to create it (empty) if it does not exist.

        Raises:
            ReplayError: If another process holds it.
            OSError: If it cannot be opened.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o666)
        mine = cls._open.get(_identity(descriptor))
        if mine is not None:
            os.close(descriptor)
            return mine
        file = cls(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _held(path) from None
        except OSError as error:
            warnings.warn(
                f"{path} cannot be locked here ({error.strerror}), so nothing keeps a second run out of this folder: "
                "start one at a time.",
                ZoftWarning,
                stacklevel=2,
            )
        # Between opening and locking, its holder may have given the file another name and ended.
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(descriptor)):
            raise _held(path)
        cls._open[_identity(descriptor)] = file
        return file

    @classmethod
    def close_in_child(cls) -> None:
        """After a fork: a data loader's worker that outlives a killed run must not keep the run's lock."""
        for file in list(cls._open.values()):
            file._close()
            file.descriptor = -1  # whatever a child opens next must not be taken for the log
        cls._open.clear()


def check_free(path: Path) -> None:
    """Raise ReplayError if another process is writing a file; OSError if it exists and this one could not."""
    if path.exists():
        LockedFile.of(path)


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _held(path: Path) -> ReplayError:
    return ReplayError(
        f"another process is writing {path}: two runs cannot share a folder. Wait until it has ended or stop it "
        "(a killed run holds nothing), or choose another output_dir."
    )


os.register_at_fork(after_in_child=LockedFile.close_in_child)
