"""Evaluate the Python that comes in on stdin, one piece after another, in one namespace.

A request is its length in bytes on a line, then the source. An answer is `ok` or `error` and a length on a line, then
the `repr` of the expression (`None` for statements) or the traceback.
"""

import os
import sys
import traceback

requests = os.fdopen(os.dup(0), "rb")
answers = os.fdopen(os.dup(1), "wb")
# What the source prints must not be taken for an answer, nor may it, or what it starts, read the requests.
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)


def evaluate(source, namespace):
    try:
        code = compile(source, "<test>", "eval")
    except SyntaxError:
        code = None
    if code is not None:
        return eval(code, namespace)
    exec(compile(source, "<test>", "exec"), namespace)


namespace = {"__name__": "__main__"}
while line := requests.readline():
    source = requests.read(int(line)).decode()
    try:
        status, text = "ok", repr(evaluate(source, namespace))
    except BaseException:
        status, text = "error", traceback.format_exc()
    answer = text.encode()
    sys.stdout.flush()
    answers.write(f"{status} {len(answer)}\n".encode() + answer)
    answers.flush()
