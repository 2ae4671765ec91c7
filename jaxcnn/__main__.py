"""`python -m jaxcnn`: the `jaxcnn` command."""

import sys

from jaxcnn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
