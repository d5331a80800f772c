"""Runs functions as tests and reports them as cargo does, so that scripts/test counts them."""

import sys
import traceback


def run(module):
    """Runs every function of the module that is named test_…, in their order; exits with 1 if one fails."""
    tests = [(name, test) for name, test in vars(module).items() if name.startswith("test_")]
    failed = 0
    for name, test in tests:
        try:
            test()
            print(f"test {name} ... ok", flush=True)
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"test {name} ... FAILED", flush=True)
    result = "FAILED" if failed else "ok"
    print(f"test result: {result}. {len(tests) - failed} passed; {failed} failed;")
    sys.exit(1 if failed else 0)


def raises(kind, call):
    """Calls, and returns the exception of this kind; fails if there is none."""
    try:
        value = call()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, got {value!r}")
