"""Evaluations, one after the other, and how each ends: ended.json in the working directory.

    python -m ended '[["knn", "--from=...", ...], ...]' [flags of all]

An entry is null, or the message of the mistake in which the command ended. One that has not ended
in time hangs: where, it says on stderr.
"""

import faulthandler
import json
import pathlib
import sys

from ibot_jax.errors import UserError
from ibot_jax.evaluate import __main__ as command

_SECONDS = 180


def main(commands, *flags):
    ends = []
    for words in json.loads(commands):
        faulthandler.dump_traceback_later(_SECONDS, exit=True)
        try:
            command._run([*words, *flags])  # which does not tell the others that this process ends
            ends.append(None)
        except UserError as error:
            ends.append(str(error))
    faulthandler.cancel_dump_traceback_later()
    pathlib.Path("ended.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(*sys.argv[1:])
