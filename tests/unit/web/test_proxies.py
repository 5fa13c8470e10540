"""What a server is told of the proxies in front of it."""

from __future__ import annotations

from typing import Any

import pytest

from thumbs.errors import ConfigError
from thumbs.web.proxies import checked_prefix, is_own_page, proxies_of, route_path


@pytest.mark.parametrize("prefix", ["label", "//label", "/a b", "/a/../b", "/é", "/a?b", "/<b>"])
def test_prefixes_that_are_refused(prefix: str):
    with pytest.raises(ConfigError, match="--root-path"):
        checked_prefix(prefix)


def test_prefixes_and_proxies_as_they_are_given():
    assert [checked_prefix(one) for one in ("", "/", "/label/", "/a/b.c")] == ["", "", "/label", "/a/b.c"]
    with pytest.raises(ConfigError, match="--proxy 'nginx'"):
        proxies_of(["nginx"])


NAME, UPSTREAM = "collect.example.org", "127.0.0.1:8765"
SERVERS: dict[str, dict[str, Any]] = {
    "named": {"host": NAME, "scheme": "http", "names": (NAME,), "secure": True},
    "named, with its port": {"host": f"{NAME}:8443", "scheme": "http", "names": (NAME,), "secure": True},
    "named, upstream's Host": {"host": UPSTREAM, "scheme": "http", "names": (NAME,), "secure": True},
    "named with a port": {"host": UPSTREAM, "scheme": "http", "names": (f"{NAME}:8443",), "secure": True},
    "told by a proxy": {"host": NAME, "scheme": "https", "names": (), "secure": False},
}
OTHERS = [
    "null",
    "https://evil.example",
    f"http://{NAME}",
    f"https://sub.{NAME}",
    f"https://{NAME}.evil.example",
    f"https://evil.example#{NAME}",
    f"https://{NAME}@evil.example",
    "https://example.org",
    f"file://{NAME}",
    "",
    "https://[::1",
    f"https://{NAME}:99999",
]


def own(origin: str, host: str, scheme: str, names: tuple[str, ...] = (), secure: bool = False, **more: str) -> bool:
    return is_own_page({"origin": origin, "host": host, **more}, scheme, names, secure=secure)


@pytest.mark.parametrize("server", SERVERS)
def test_pages_of_other_sites_are_not_ours(server: str):
    assert not [origin for origin in OTHERS if own(origin, **SERVERS[server])]


def test_pages_of_ours_are_known_by_name_port_and_scheme():
    assert own(f"https://{NAME}", **SERVERS["named"])
    assert own(f"https://{NAME}:8443", **SERVERS["named"])  # the proxy left the port out
    assert own(f"https://{NAME}:8443", **SERVERS["named, with its port"])
    assert not own(f"https://{NAME}:9999", **SERVERS["named, with its port"])
    assert own(f"https://{NAME.upper()}", **SERVERS["named, upstream's Host"])
    assert own(f"https://{NAME}:8443", **SERVERS["named with a port"])
    assert not own(f"https://{NAME}", **SERVERS["named with a port"])
    assert own(f"https://{NAME}:443", **SERVERS["told by a proxy"])
    assert not own(f"https://{NAME}:8443", **SERVERS["told by a proxy"])


@pytest.mark.parametrize(
    ("origin", "is_ours"),
    [
        ("http://localhost:8765", True),
        ("http://localhost:9999", False),
        ("http://localhost", False),
        ("https://localhost:8765", False),
        ("http://127.0.0.1:8765", False),
        ("http://evil.localhost:8765", False),
    ],
)
def test_without_a_proxy_an_origin_is_host_port_and_scheme(origin: str, is_ours: bool):
    assert own(origin, "localhost:8765", "http") == is_ours


@pytest.mark.parametrize("server", SERVERS)
def test_a_browser_that_says_whose_page_it_is_is_believed(server: str):
    for said in ("cross-site", "same-site", "", "nonsense"):
        assert not own(f"https://{NAME}", **SERVERS[server], **{"sec-fetch-site": said})
    assert own("https://anything.example", **SERVERS[server], **{"sec-fetch-site": "same-origin"})


def test_the_path_of_a_route_is_without_the_prefix():
    paths = ("/label/x", "/label", "/labels/x", "/x")
    assert [route_path({"path": one, "root_path": "/label"}) for one in paths] == ["/x", "/", "/labels/x", "/x"]
    assert route_path({"path": "/x"}) == "/x"
