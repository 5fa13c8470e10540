"""A team's server for tests: python tests/collect/server.py DATABASE PORT, stopped by a signal, killed without harm."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from thumbs.collect.store import CollectStore
from thumbs.collect.web.app import create_app
from thumbs.collect.web.site import Site


def main() -> None:
    where, port = sys.argv[1], int(sys.argv[2])
    store = CollectStore(where if "://" in where else Path(where))
    app = create_app(Site(store, key=b"k" * 32, hosts=("*",)))
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False)
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
