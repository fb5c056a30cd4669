"""Run `vpgt` many times, each in a process of its own that is forked after the libraries are imported.

    python forked_commands.py '[["import", "a.pth", "--out", "b"], ...]'

prints what importing the libraries took, and then for each command what its process ended with, said, and used, all as
JSON lines. Seconds are CPU time and kilobytes the largest resident set, both of `getrusage`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time


def main() -> None:
    import vpg_qformer.conversion
    import vpg_qformer.folder
    import vpg_qformer.part
    from transformers import AutoModelForCausalLM, AutoTokenizer, Blip2ForConditionalGeneration

    import vpgtrans_core.run.feed
    import vpgtrans_core.run.pipeline
    import vpgtrans_core.start.words

    loaded = AutoModelForCausalLM, AutoTokenizer, Blip2ForConditionalGeneration, vpg_qformer, vpgtrans_core
    assert all(loaded)
    print(json.dumps({"seconds": time.process_time(), "kilobytes": used().ru_maxrss}), flush=True)
    for arguments in json.loads(sys.argv[1]):
        print(json.dumps(run(arguments)), flush=True)


def run(arguments: list[str]) -> dict[str, object]:
    with tempfile.TemporaryFile("w+") as said:
        began = time.monotonic()
        child = os.fork()
        if not child:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            os._exit(command(arguments))
        _, status, usage = os.wait4(child, 0)
        said.seek(0)
        return {
            "code": os.waitstatus_to_exitcode(status),
            "said": said.read(),
            "seconds": usage.ru_utime + usage.ru_stime,
            "wall": time.monotonic() - began,
            "kilobytes": usage.ru_maxrss,
        }


def command(arguments: list[str]) -> int:
    from vpgtrans_core.cli.main import main

    code: object = 0
    try:
        main(arguments)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 0


def used() -> resource.struct_rusage:
    return resource.getrusage(resource.RUSAGE_SELF)


if __name__ == "__main__":
    main()
