"""Signals during long calls: they end soon, raise what the handler raised, and leave no lock."""

import ctypes
import os
import subprocess
import sys

import pytest

from tetractys.runtime import cpu_poll

_SCRIPT = """
import os, signal, sys, threading, time
import numpy as np
from tetractys.runtime import cpu_entry
from tetractys.runtime.artifact import Argument, Artifact
from tetractys.runtime.call import RELEASE, Executable
from tetractys.runtime.cpu_jit import assemble
from tetractys.runtime.errors import CallError
from tetractys.runtime.shared import Storage

code = assemble('''
declare i64 @tx_poll()
define i64 @tx_plan(ptr %s, ptr %r) {{ store i64 0, ptr %r ret i64 0 }}
define i64 @tx_run(ptr %s, ptr %p, ptr %a, ptr %t) {{
entry:
  br label %again
again:
  %stop = call i64 @tx_poll()
  %go = icmp eq i64 %stop, 0
  br i1 %go, label %again, label %end
end:
  ret i64 -1
}}''')
arguments = [(Argument(name, "float64", (-1,)),) for name in "xw"]
w = Storage(np.zeros(3))
executable = Executable(Artifact(
    "forever", "cpu", (code,), *arguments, (), (), 1, ("n",), updates_in_place=True,
    work="{work}", externals=("tx_poll",)), [w])
f = executable.call if {slow} else cpu_entry.make_entry(executable)
executable.control[RELEASE] = int({work} > 0)
x = np.zeros(3)
{handler}
for k in range(2):
    os.system("(sleep 0.3; kill -INT %d) &" % os.getpid())
    start = time.time()
    try:
        f(x)
    except {error} as error:
        assert w.lock.value == 0
        print("caught", type(error).__name__, time.time() - start < 5)
"""


@pytest.mark.parametrize("slow", [True, False], ids=["slow", "fast"])
@pytest.mark.parametrize("work", [0, 10 ** 9], ids=["holding the GIL", "without the GIL"])
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "ZeroDivisionError", "CallError"])
@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_signal_ends_a_long_call(slow, work, error):
    # The last handler asks for the shared variable that the interrupted call is using.
    # Python leaves the signal ignored when its parent did, as shells do for background jobs.
    handler = {"KeyboardInterrupt": "signal.default_int_handler",
               "ZeroDivisionError": "lambda *a: 1/0", "CallError": "lambda *a: w.get()"}[error]
    handler = f"signal.signal(signal.SIGINT, {handler})"
    script = _SCRIPT.format(slow=slow, work=work, error=error, handler=handler)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          timeout=60)
    assert done.stdout.split("\n")[:2] == [f"caught {error} True"] * 2, done.stdout + done.stderr
    assert done.returncode == 0


def test_poll_is_quiet_without_a_signal():
    poll = ctypes.CFUNCTYPE(ctypes.c_int64)(cpu_poll.library()["tx_poll"])
    assert all(poll() == 0 for _ in range(1000)) and not cpu_poll.is_handling()


_KERNEL = """
import os, signal, threading, time
import numpy as np
import tetractys as tx
from tetractys import tensor as T
from tetractys.runtime.cpu_threads import set_num_threads

set_num_threads({threads})
x, w = T.dmatrix("x"), tx.shared(0)
y = x
for _ in range(30):
    y = T.sin(y + 1)
f = tx.function([x], y, updates=[(w, w + 1)])
array = np.ones((8000, 500))
f.compile()  # for all sizes
f(array[:1000])
start = time.time()
f(array[:1000])
whole = 8 * (time.time() - start)
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(0.05 * whole, lambda: os.kill(os.getpid(), 2)).start()
start = time.time()
try:
    f(array)
except KeyboardInterrupt:
    print("caught", time.time() - start < 0.6 * whole, w.get_value())
print(np.ptp(f(array[:1000])), w.get_value())
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_a_signal_ends_a_call_inside_one_large_kernel(threads):
    done = subprocess.run([sys.executable, "-c", _KERNEL.format(threads=threads)],
                          capture_output=True, text=True, timeout=120)
    assert done.stdout == "caught True 2\n0.0 3\n", done.stdout + done.stderr
