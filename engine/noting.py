"""Which machine a build began with, noted as its first command runs."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager

from engine.outersandbox import OuterSandbox
from engine.vm.ahead import may_wait
from engine.vm.execution import Execution, Outlook, Output, Result, Sandbox


class NotingSandbox(OuterSandbox):
    """Puts into `seen` what the first command's machine is restored with, if such a one may be restored ahead."""

    def __init__(self, inner: Sandbox, seen: list[Outlook]) -> None:
        super().__init__(inner)
        self._seen = seen

    def execute(
        self, execution: Execution, output: Output, cancelled: threading.Event
    ) -> AbstractContextManager[Result]:
        """As of Sandbox."""
        if not self._seen and may_wait(execution):
            self._seen.append(execution.outlook)
        return super().execute(execution, output, cancelled)
