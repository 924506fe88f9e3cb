"""How many threads a network is worth while it is lifted and proven: small ones run on one.

A step of a small network is over before several threads have met. On a busy machine they wait for each other, for
milliseconds in each of thousands of steps: LSTM(4, 32, 2 layers) was validated in 50 s on one thread of a machine with
two cores and six busy processes, and in 390 s on two.
"""

ONE_THREAD_BYTES = 4_000_000


def fitting_threads(weights_bytes: int) -> int | None:
    """The threads for so many bytes of weights; None leaves the number to the runtime."""
    return 1 if weights_bytes <= ONE_THREAD_BYTES else None
