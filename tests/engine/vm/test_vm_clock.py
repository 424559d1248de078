"""What a step sees of time and of its machine: the clock that it was given, and the same in every machine."""

from __future__ import annotations

import pytest
from vm_support import Runner

from engine.layers.entry import NORMAL_TIME
from engine.vm.execution import FixedClock

pytestmark = pytest.mark.vm

HELD = """
cut -d. -f1 /proc/uptime
for i in 1 2 3 4 5 6 7 8 9 10; do date +%s; done
sleep 1.5; date +%s
touch /tmp/made; stat -c %Y /tmp/made /etc/hosts
date -s @1000000000 >/dev/null; sleep 1; date +%s
cut -d. -f1 /proc/uptime
"""
SEEN = """
echo $$; sh -c 'echo $$' ; sh -c 'echo $$; ls -d /proc/[0-9]*'
hostname; cat /proc/sys/kernel/domainname /proc/version /proc/cpuinfo /proc/cmdline /proc/self/mountinfo
cat /sys/class/net/eth0/address; nproc; ls -iU / /bin /etc; ls -i / /bin
mkdir /tmp/d; for i in a b c d e f g h i j k l m n; do echo >/tmp/d/$i; done; ls -iU /tmp/d; rm /tmp/d/f; ls -iU /tmp/d
"""


def test_a_held_clock_stands_while_sleeping_goes_on(run: Runner) -> None:
    ran = run(HELD, clock=FixedClock(NORMAL_TIME, held=True), privileged=True, clock_shift=3600)
    assert ran.err == b""
    before, *seen, after = map(int, ran.text.split())
    assert seen == [NORMAL_TIME] * len(seen)
    assert len(seen) == 14
    assert after - before >= 2


def test_two_machines_look_the_same_and_start_at_the_epoch(run: Runner) -> None:
    told = [
        run(f"date +%s; cat /proc/sys/kernel/random/uuid; {SEEN} sleep 1.5; date +%s", clock=FixedClock(NORMAL_TIME))
        for _ in range(2)
    ]
    (first, uuid, *seen, last), (_, other, *again, _) = (ran.text.splitlines() for ran in told)
    assert NORMAL_TIME <= int(first) < NORMAL_TIME + 30
    assert int(first) < int(last) < NORMAL_TIME + 60
    assert seen == again
    assert (seen[0], seen[1].isdecimal()) == ("1", True)
    assert uuid != other
