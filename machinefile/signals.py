"""Names of signals, as STOPSIGNAL takes them."""

from __future__ import annotations

_NAMES = """
ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP
TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX
"""

SIGNALS = frozenset(
    [
        *_NAMES.split(),
        *(f"RTMIN+{number}" for number in range(1, 16)),
        *(f"RTMAX-{number}" for number in range(1, 15)),
    ]
)


def is_signal(text: str) -> bool:
    """Whether text names a signal: `SIGTERM`, `term`, or a number from 1 on. Source: moby/sys/signal, for Linux."""
    if text.lstrip("+").isdecimal() and text.isascii():
        return int(text) != 0
    return text.upper().removeprefix("SIG") in SIGNALS
