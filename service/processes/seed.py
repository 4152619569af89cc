"""What the nursery imports, and nobody else: all that is forked off it finds there what it needs.

The one module that does something when it is imported, for nothing else is done in the nursery.
"""

import importlib

from service.processes.nursery import importing

with importing():
    importlib.import_module("numpy.random")  # which the first model would wait for
    importlib.import_module("service.processes.worker")
