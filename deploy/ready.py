"""Whether the service of this container is ready: exits with 0 if it is, else with 1.

Not urllib: it would ask the proxy that a company's Docker client sets.
"""

import http.client
import os
import ssl
import sys


def ready() -> bool:
    address = ("127.0.0.1", int(os.environ["PORT"]))
    if os.environ.get("RESLENS_TLS_CERTIFICATE"):
        # It is asked by itself: its name is not in the certificate.
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            *address, timeout=2, context=ssl._create_unverified_context()
        )
    else:
        connection = http.client.HTTPConnection(*address, timeout=2)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


if __name__ == "__main__":
    sys.exit(not ready())
