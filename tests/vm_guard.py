"""A pytest plugin (`-p vm_guard`) that fails a run in which no test marked `vm` really ran.

A skipped test looks much like a passed one in a log. This makes sure that a machine without QEMU, without the guest
kernel, or with a selection that matches nothing cannot pass for one where microVMs work.
"""

from __future__ import annotations

import pytest

EXIT_CODE = 1


class VmGuard:
    """Counts the tests marked `vm` whose body ran."""

    def __init__(self) -> None:
        self.ran = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for each phase of each test; skipping and deselecting never get a body to its end."""
        if report.when == "call" and not report.skipped and "vm" in report.keywords:
            self.ran += 1

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Called when all tests are over; `session.exitstatus` is what pytest will exit with."""
        if not self.ran:
            session.exitstatus = EXIT_CODE

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Called before the closing line."""
        if not self.ran:
            terminalreporter.write_line("vm_guard: no test ran a microVM, so this run counts as failed", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Called when pytest loads the plugin."""
    config.pluginmanager.register(VmGuard())
