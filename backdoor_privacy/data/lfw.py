"""Fetch Labeled Faces in the Wild with scikit-learn."""

import logging
import socket
import warnings
from http.client import HTTPException
from pathlib import Path

from backdoor_privacy.errors import InputError

log = logging.getLogger(__name__)

_ARCHIVE = "lfw-funneled.tgz"
_TIMEOUT_S = 30  # of a server that does not answer
_BY_HAND = (
    f"or fetch {_ARCHIVE} on another machine, from https://ndownloader.figshare.com/files/5976015, unpack it and set "
    "people.folder to its folder lfw_funneled"
)


def lfw_folder(cache: str | Path) -> Path:
    """Return the folder of the aligned ("funneled") photos, a folder per person; about 200 MB are fetched first, once.

    Args:
        cache: folder that holds them, as scikit-learn's `data_home`.

    Raises:
        InputError: if the photos cannot be fetched, or are incomplete.
    """
    home = Path(cache).expanduser()
    folder, archive = home / "lfw_home/lfw_funneled", home / "lfw_home" / _ARCHIVE
    if folder.is_dir() and not archive.exists():  # scikit-learn deletes the archive when all is unpacked
        return folder
    from sklearn.datasets import fetch_lfw_people  # here, as it is slow to import

    log.info("Fetching LFW, about 200 MB, into %s", home)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)  # scikit-learn would wait for ever
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its second try
            # It always decodes what it fetches; only one person has 500 photos.
            fetch_lfw_people(data_home=home, min_faces_per_person=500, n_retries=1)
    except (OSError, HTTPException) as error:
        raise InputError(f"people.folder: expected LFW from its server, got {error}; try again, {_BY_HAND}") from error
    finally:
        socket.setdefaulttimeout(timeout)
    if archive.exists():
        raise InputError(
            f"people.folder: expected all of LFW in {folder}, got a part; delete this folder and try again"
        )
    return folder
