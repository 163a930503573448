"""Look into the cache of the Hugging Face hub, and check whether the hub answers, before anything waits for it."""

import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.utils import HFValidationError, validate_repo_id

from backdoor_privacy.errors import InputError

_TIMEOUT_S = 5  # of a host that does not answer


def find_on_hub(key: str, needed: Sequence[tuple[str, Sequence[str]]], advice: str = "") -> bool:
    """Check that files of the Hugging Face hub are in its cache, or that the hub answers.

    Args:
        key: of the setting, for errors.
        needed: repositories, each with names of files of which one is enough.
        advice: what else the user can do.

    Returns:
        Whether all of them are in the cache, so that no network is needed.

    Raises:
        InputError: at once, if a file is not in the cache and the hub does not answer.
    """
    for repo, _ in needed:
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise InputError(
                f"{key}: expected a folder that is there or a repository owner/name, got {repo}"
            ) from error
    missing = [(repo, names[0]) for repo, names in needed if not any(cached_file(repo, name) for name in names)]
    if missing and (constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT)):
        repo, name = missing[0]
        raise InputError(
            f"{key}: expected {name} of {repo} in {constants.HF_HUB_CACHE}, or a network, found neither; copy that "
            f"folder from a machine where `hf download {repo}` was run{advice}"
        )
    return not missing


def cached_file(repo: str, name: str) -> str | None:
    """Return the path of a file of a repository in the cache; `None` if it is not there."""
    try:
        path = huggingface_hub.try_to_load_from_cache(repo, name)
    except HFValidationError:
        return None
    return path if isinstance(path, str) else None


@contextmanager
def offline_hub(offline: bool) -> Iterator[None]:
    """Keep the libraries from asking the hub for newer files: without a network they would wait for long."""
    before = constants.HF_HUB_OFFLINE
    _set_offline(before or offline)
    try:
        yield
    finally:
        _set_offline(before)


def _set_offline(offline: bool) -> None:
    constants.HF_HUB_OFFLINE = offline
    if hasattr(huggingface_hub.utils, "reset_sessions"):  # before 1.0, a session stays as it was when it was made
        huggingface_hub.utils.reset_sessions()


def reachable(url: str) -> bool:
    """Return whether the host of a URL, or the proxy to it, accepts a connection."""
    address = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(address.scheme)
    if proxy is not None and not urllib.request.proxy_bypass(address.hostname or ""):
        address = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), _TIMEOUT_S).close()
    except OSError:
        return False
    return True
