import socket
from collections.abc import Iterator

import huggingface_hub
import pytest
from huggingface_hub import constants

from backdoor_privacy.clip.hub import offline_hub, reachable


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def port() -> Iterator[int]:
    """A port where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_host_is_reached_or_not(port: int, closed_port: int):
    assert reachable(f"http://127.0.0.1:{port}/some/file")
    assert not reachable(f"http://127.0.0.1:{closed_port}")
    assert not reachable("https://no-such-host.invalid")


def test_proxy_is_asked_in_place_of_the_host(port: int, closed_port: int, monkeypatch: pytest.MonkeyPatch):
    for proxy, is_there in ((f"http://127.0.0.1:{port}", True), (f"127.0.0.1:{closed_port}", False)):
        monkeypatch.setenv("https_proxy", proxy)
        assert reachable("https://no-such-host.invalid") is is_there
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port}")
    assert not reachable(f"http://127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert reachable(f"http://127.0.0.1:{port}")


def test_sessions_are_made_anew_where_they_remember_to_be_offline(monkeypatch: pytest.MonkeyPatch):
    found: list[bool] = []

    def reset_sessions() -> None:  # of huggingface_hub below 1.0
        found.append(constants.HF_HUB_OFFLINE)

    monkeypatch.setattr(huggingface_hub.utils, "reset_sessions", reset_sessions, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with offline_hub(True):
        assert found == [True]
    assert found == [True, False]
