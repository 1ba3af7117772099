"""``python -m tuner.bundle install FILE``: where nothing but Python and NumPy is installed.

The same as ``moetune bundle install``, without the packages of the command line.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tuner.bundle import signing
from tuner.bundle.install import install
from tuner.bundle.reader import check_signer
from tuner.bundle.report import lines
from tuner.errors import MoetuneError
from tuner.host.terminal import one_line, printable


def main() -> int:
    """Exit codes: 0 (ok, or slower), 1 (refused), 2 (called wrongly)."""
    parser = argparse.ArgumentParser(prog="python -m tuner.bundle", description=__doc__)
    parser.add_argument("command", choices=["install"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--trust", default="signed", help="signed, unsigned or sha256:HEX")
    parser.add_argument("--key", type=Path, help="public key of who signed it; trusted from now on")
    parser.add_argument("--device", default="cuda:0", help="the GPU for code for GPUs")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.key and given.trust != "signed":
        parser.error("--key: asks for a signature; leave --trust out")
    try:
        if given.key:
            check_signer(given.file, given.key)
            signing.trust(given.key)
        found = install(given.file, given.trust, device=given.device)
    except MoetuneError as error:
        print(f"moetune: {one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    told = json.dumps(found.to_json(), indent=2) if given.json else "\n".join(lines(found))
    print(printable(told))
    return found.exit_code


if __name__ == "__main__":
    sys.exit(main())
