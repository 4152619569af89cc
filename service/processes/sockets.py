"""Where the processes find each other, and the sockets that the service listens on."""

import socket

from service.errors import StartupError

# In a directory that only their user can enter.
CONTROL = "control.sock"
OBSERVER = "observer.sock"

# As what a process says hello.
WATCHER, WORKER = "observer", "worker"

BACKLOG = 2048


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to every address of the host, and not listening yet; raises `StartupError`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartupError(f"there is no address {host!r}: {error.strerror}; set RESLENS_HOST") from error
    bound: list[socket.socket] = []
    for family, _, _, _, address in dict.fromkeys(found):
        listener = socket.socket(family, socket.SOCK_STREAM)
        bound.append(listener)
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # A port that the system chose for the first address is the port of the others too.
        chosen = bound[0].getsockname()[1] or port
        try:
            listener.bind((address[0], chosen, *address[2:]))
        except OSError as error:
            for each in bound:
                each.close()
            raise StartupError(f"cannot listen on {host} port {port}: {error.strerror}; set RESLENS_PORT") from error
    return bound


def url_of(listener: socket.socket, tls: bool) -> str:
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
