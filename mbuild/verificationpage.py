"""What came of verifying as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from engine.verify.difference import FileDifference, StepDifference, Verification
from engine.verify.shown import printable
from mbuild.verification import change_words, path_of, summary

_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color: #222 }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em } code, pre { font: 13px/1.4 monospace }
pre { background: #f5f5f5; padding: .6em; overflow-x: auto } td, th { padding: .1em 1em .1em 0; text-align: left }
.same { color: #060 } .differs { color: #a00 } .minus { color: #a00 } .plus { color: #060 }"""


def verification_page(found: Verification) -> str:
    """The page. All that comes from images is escaped; there is no script and nothing is loaded."""
    return "\n".join(_page(found)) + "\n"


def _page(found: Verification) -> Iterator[str]:
    verdict = "reproducible" if found.reproducible else "not reproducible"
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield f"<title>{_text(found.subject)}: {verdict}</title>"
    yield f"<style>{_STYLE}</style></head><body>"
    yield f'<h1>{_text(found.subject)}: <span class="{_kind(found)}">{verdict}</span></h1>'
    yield "<table>"
    for side, digest in zip(found.sides, (found.first, found.second), strict=True):
        yield f"<tr><th>{_text(side)}</th><td><code>{_text(digest) or 'no layer'}</code></td></tr>"
    yield "</table>"
    if not found.reproducible:
        yield f"<p>{_text(summary(found))}</p>"
    if found.step is not None:
        yield from _step(found.step)
    if found.later:
        yield f"<h2>Differing after it</h2><p>{_text(', '.join(found.later), 4000)}</p>"
    if found.fields:
        yield "<h2>Beside the files</h2><table>"
        for field in found.fields:
            cells = (field.field, field.first, field.second)
            yield "<tr>" + "".join(f"<td><code>{_text(cell, 400)}</code></td>" for cell in cells) + "</tr>"
        yield "</table>"
    yield "</body></html>"


def _kind(found: Verification) -> str:
    return "same" if found.reproducible else "differs"


def _step(step: StepDifference) -> Iterator[str]:
    line = f", line {step.line}" if step.line else ""
    yield f"<h2>{_text(step.id)}{line}</h2><pre>{_text(step.instruction, 2000)}</pre>"
    if step.note:
        yield f"<p>{_text(step.note)}</p>"
    for file in step.files:
        yield from _file(file)
    if step.more:
        yield f"<p>and {step.more} more files</p>"


def _file(file: FileDifference) -> Iterator[str]:
    inner = f" ({_text(file.inner)})" if file.inner else ""
    yield f"<h3><code>{escape(path_of(file))}</code>{inner}</h3>"
    yield f"<p>{_text(', '.join(map(change_words, file.changes)), 1000)}</p>"
    if file.diff:
        yield f"<pre>{chr(10).join(map(_line, file.diff))}</pre>"
    if file.guess is not None:
        guess = file.guess
        yield f"<p>Cause: <b>{_text(guess.cause.value)}</b>: {_text(guess.why)}.<br>Mend: {_text(guess.mend, 400)}.</p>"


def _line(line: str) -> str:
    kind = {"-": "minus", "+": "plus"}.get(line[:1], "")
    return f'<span class="{kind}">{_text(line)}</span>' if kind else _text(line)


def _text(text: str, limit: int = 200) -> str:
    return escape(printable(text, limit))
