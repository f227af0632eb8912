"""moto's server, which looks through its own package for each request: here once.

That was a third of the server's time.
"""

import sys

import moto.backends
from moto.server import main

names = list(moto.backends.list_of_moto_modules())
moto.backends.list_of_moto_modules = lambda: names
sys.exit(main())
