"""Calls between processes, over a real socket."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from service.channel import Answer, Channel, RelayedError, connect
from service.errors import BadRequestError


async def echo(arguments: dict[str, Any], payload: bytes) -> Answer:
    return Answer(arguments, payload)


async def large(_: dict[str, Any], __: bytes) -> Answer:
    return Answer(10**20)


def calling(path: Path, scenario: Callable[[Channel], Awaitable[None]]) -> None:
    """Run a scenario with a channel to another end, which answers."""

    async def run() -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await Channel(reader, writer, {"echo": echo, "large": large}).run()

        async with await asyncio.start_unix_server(accept, str(path)):
            channel = await connect(str(path), {})
            running = asyncio.create_task(channel.run())
            async with asyncio.timeout(10):
                await scenario(channel)
            channel.close()
            await running

    asyncio.run(run())


@pytest.mark.parametrize("value", [10**20, -(10**20), "\ud800", {1}], ids=["large", "small", "no text", "set"])
def test_what_cannot_be_passed_on_is_a_bad_request_and_the_channel_goes_on(tmp_path: Path, value: object) -> None:
    async def scenario(channel: Channel) -> None:
        with pytest.raises(BadRequestError, match="cannot be passed on"):
            await channel.call("echo", value=value)
        with pytest.raises(BadRequestError, match="cannot be passed on"):
            channel.tell("echo", value=value)
        assert await channel.call("echo", b"bytes", value=1) == ({"value": 1}, b"bytes")

    calling(tmp_path / "socket", scenario)


def test_an_answer_that_cannot_be_passed_on_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(channel: Channel) -> None:
        with pytest.raises(RelayedError, match="internal error"):
            await channel.call("large")
        assert await channel.call("echo") == ({}, b"")

    calling(tmp_path / "socket", scenario)
    assert "the answer to large cannot be passed on" in caplog.text
