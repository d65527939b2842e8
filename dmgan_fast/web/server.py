"""The page as an application, and the server that runs it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from dmgan_fast.errors import InputError
from dmgan_fast.web.guard import Guard
from dmgan_fast.web.studio import Studio

LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})
REMEDY = "web: {} is not installed; install what the page needs with `pip install 'dmgan-fast[web]'`"
SILENT = {  # environment variables
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "FASTAPI_OTEL_AUTO_CONFIGURE": "false",
}


def application(studio: Studio, *, hosts: frozenset[str] | None = LOCAL) -> Guard:
    """The page as an ASGI application, guarded.

    Args:
        studio: what answers.
        hosts: names by which visitors call the server; None: any.

    Raises:
        InputError: if gradio is not installed.
    """
    gradio, fastapi = _gradio()
    from dmgan_fast.web import layout, views

    page = layout.build(studio)
    outer = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    mounted = gradio.mount_gradio_app(
        outer,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        max_file_size=1,
        theme=layout.theme(),
        css=views.style(studio.limits),
    )
    return Guard(mounted, layout.calls(page), hosts)


def serve(studio: Studio, *, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Run until Ctrl-C; ``ready`` is told the address once requests are answered.

    Raises:
        InputError: if gradio is not installed, or the address can't be had.
    """
    local = host in ("localhost", "127.0.0.1", "::1")
    app = application(studio, hosts=LOCAL if local else None)
    import uvicorn

    listening = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    studio.warm_up()
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
    )
    ready(f"http://{shown}:{listening.getsockname()[1]}")
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise InputError(
            f"web: {host}:{port} can't be used: {error.strerror or error}; take another --port or --host"
        ) from None
    listening.listen(64)
    return listening


def _gradio() -> tuple[Any, Any]:
    """Gradio and FastAPI, which comes with it, told before they are imported that they send nothing anywhere."""
    os.environ |= SILENT
    try:
        import fastapi
        import gradio
    except ModuleNotFoundError as error:
        raise InputError(REMEDY.format(error.name)) from None
    return gradio, fastapi
