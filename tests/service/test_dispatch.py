"""Which worker gets a connection."""

import asyncio
import contextlib
import socket

from service.processes.dispatch import BURST_SECONDS, REPORT, Dispatcher, Receiver


async def shares(connections: int, pause: float) -> list[int]:
    """How many of so many new connections each of two workers gets, where the second says that it has six already."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.setblocking(False)
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        for end in (end for ends in pairs for end in ends):
            sockets.enter_context(end)
        dispatcher = Dispatcher([listener])
        pairs[1][1].send(REPORT.pack(0, 6))
        receivers = [Receiver(supervisor) for supervisor, _ in pairs]
        for receiver in receivers:
            dispatcher.add(receiver)
        await asyncio.sleep(BURST_SECONDS)
        for _ in range(connections):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            sockets.callback(writer.close)
            await asyncio.sleep(pause)
        await asyncio.sleep(0.1)
        given = [taken(worker) for _, worker in pairs]
        for receiver in receivers:
            dispatcher.remove(receiver)
        dispatcher.close()
        return given


def taken(worker: socket.socket) -> int:
    """How many connections lie ready for a worker."""
    worker.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            _, descriptors, _, _ = socket.recv_fds(worker, 1, 1)
            for descriptor in descriptors:
                socket.socket(fileno=descriptor).close()
            count += len(descriptors)
    return count


def test_the_worker_with_the_fewest_gets_the_next() -> None:
    assert asyncio.run(shares(4, 1.5 * BURST_SECONDS)) == [4, 0]


def test_those_of_a_burst_are_dealt_out_in_turn() -> None:
    # What the second worker said may be old: then all would go to the first, and stay there.
    assert asyncio.run(shares(8, 0.0)) == [4, 4]
