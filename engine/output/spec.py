"""Reads -o as docker buildx writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.images.reference import Reference
from engine.output.annotations import Annotations, is_output_key, parse_output_key
from engine.output.compress import DEFAULT, Compression, Compressor
from engine.output.kinds import STDOUT, DiskFormat, OutputSpec, OutputType
from machinefile.commas import QuotesError, split_commas
from machinefile.errors import UsageError

__all__ = ["OutputSpec", "OutputType", "parse_output", "parse_outputs"]

_IMAGE_KEYS = (
    "name",
    "compression",
    "compression-level",
    "level",
    "force-compression",
    "oci-mediatypes",
    "annotation.KEY",
)
_KEYS: Mapping[OutputType, tuple[str, ...]] = {
    OutputType.OCI: ("dest", "tar", *_IMAGE_KEYS),
    OutputType.DOCKER: ("dest", *_IMAGE_KEYS),
    OutputType.IMAGE: ("push", *_IMAGE_KEYS),
    OutputType.LOCAL: ("dest",),
    OutputType.TAR: ("dest",),
    OutputType.DISK: ("dest", "format", "size"),
    OutputType.MACHINE: ("dest",),
}
_PUSHED = "registry"
"""docker buildx's short word for `type=image,push=true`."""
_COMPRESSORS = {
    "gzip": Compressor.GZIP,
    "zstd": Compressor.ZSTD,
    "none": Compressor.NONE,
    "uncompressed": Compressor.NONE,
}
_UNITS = "KMGT"
_MOST_BYTES = 1 << 44


def parse_outputs(texts: Sequence[str], *, terminal: bool = False) -> tuple[OutputSpec, ...]:
    """Read every -o of a command line; `terminal` says whether standard output is one.

    Raises UsageError: as `parse_output`, `output-twice` for one place given twice, `output-terminal` for bytes
    that a terminal should not get.
    """
    outputs = tuple(parse_output(text) for text in texts)
    taken: set[str] = set()
    for output in outputs:
        if output.type is OutputType.IMAGE:
            continue
        if output.to_stdout and terminal:
            raise UsageError(
                f"-o type={output.type.value} would write bytes to a terminal",
                code="output-terminal",
                hint="name a file with dest=PATH, or send standard output into a file or a program",
            )
        place = "-" if output.to_stdout else str(output.destination.absolute())
        if place in taken:
            raise UsageError(f"two outputs go to {output.label}", code="output-twice", hint="give each its own dest")
        taken.add(place)
    return outputs


def parse_output(text: str) -> OutputSpec:
    """Read one -o: `type=TYPE[,dest=PATH][,KEY=VALUE...]`, a folder's path, or `-`.

    As in docker build the fields are a line of CSV, so that a path with a comma can be quoted.
    Raises UsageError: `output-invalid`, `output-unsupported`.
    """
    try:
        words = split_commas(text)
    except QuotesError as error:
        raise _invalid(text, f"it is not a line of CSV ({error})", 'write "dest=PATH" with both quotes') from error
    if len(words) == 1 and words[0] and "=" not in words[0].partition("/")[0]:
        if words[0] == "-":
            return OutputSpec(OutputType.TAR)
        return OutputSpec(OutputType.LOCAL, Path(words[0]))
    return _Fields(text, words).spec()


def _invalid(text: str, why: str, hint: str = "") -> UsageError:
    return UsageError(f"-o {text}: {why}", code="output-invalid", hint=hint)


class _Fields:
    """The fields of one -o; each is taken once, by the name it is known under."""

    def __init__(self, text: str, words: Sequence[str]) -> None:
        self._text = text
        self._values: dict[str, str] = {}
        for word in words:
            name, equals, value = word.partition("=")
            name = name.strip()
            # Annotations' names tell upper from lower case, all else does not.
            name = name if is_output_key(name) else name.lower()
            if not equals or not name:
                raise self._wrong(f"{word!r} is not NAME=VALUE", "write -o type=oci,dest=PATH")
            if name in self._values:
                raise self._wrong(f"{name} is given twice")
            self._values[name] = value

    def spec(self) -> OutputSpec:
        kind, push = self._type()
        self._check_names(kind)
        tar = self._tar(kind)
        return OutputSpec(
            kind,
            self._destination(kind, tar),
            tar is True,
            self._compression(),
            self._flag("force-compression"),
            self._names(),
            self._flag("push", push),
            self._annotations(),
            self._oci_media_types(kind),
            self._disk_format(),
            self._disk_size(),
        )

    def _wrong(self, why: str, hint: str = "") -> UsageError:
        return _invalid(self._text, why, hint)

    def _type(self) -> tuple[OutputType, bool]:
        word = self._values.pop("type", "")
        if not word:
            raise self._wrong("type is missing", "write -o type=oci,dest=PATH")
        if word == _PUSHED:
            return OutputType.IMAGE, True
        known = [one.value for one in OutputType]
        if word not in known:
            hint = _nearest(word, [*known, _PUSHED]) or f"types: {', '.join([*known, _PUSHED])}"
            raise self._wrong(f"there is no output type {word!r}", hint)
        return OutputType(word), False

    def _check_names(self, kind: OutputType) -> None:
        known = _KEYS[kind]
        for name in self._values:
            if name in known or (kind.is_image and is_output_key(name)):
                continue
            elsewhere = [one.value for one, keys in _KEYS.items() if name in keys]
            if elsewhere:
                raise self._wrong(f"{name} is for type={' and '.join(elsewhere)}, not for {kind.value}")
            hint = _nearest(name, known) or f"known for {kind.value}: {', '.join(known)}"
            raise self._wrong(f"{name!r} is not known for type={kind.value}", hint)

    def _tar(self, kind: OutputType) -> bool | None:
        if kind is not OutputType.OCI:
            return None
        destination = self._values.get("dest", "-")
        return self._flag("tar", destination == "-" or destination.endswith(".tar"))

    def _destination(self, kind: OutputType, tar: bool | None) -> Path:
        if kind is OutputType.IMAGE:
            return STDOUT
        given = self._values.get("dest")
        folder = kind in (OutputType.LOCAL, OutputType.MACHINE) or tar is False
        if given == "" or ((given is None or given == "-") and (folder or kind is OutputType.DISK)):
            what = "a folder" if folder else "a file"
            raise self._wrong(f"dest=PATH is missing: type={kind.value} needs {what}", "add dest=PATH")
        return STDOUT if given is None else Path(given)

    def _flag(self, name: str, default: bool = False) -> bool:
        value = self._values.get(name)
        if value is None:
            return default
        if value.lower() not in ("true", "false", "1", "0"):
            raise self._wrong(f"{name} is true or false, not {value!r}")
        return value.lower() in ("true", "1")

    def _compression(self) -> Compression:
        word = self._values.get("compression", "gzip")
        if word not in _COMPRESSORS:
            hint = _nearest(word, _COMPRESSORS) or f"compressions: {', '.join(_COMPRESSORS)}"
            raise self._wrong(f"there is no compression {word!r}", hint)
        compressor = _COMPRESSORS[word]
        if "level" in self._values and "compression-level" in self._values:
            raise self._wrong("level and compression-level mean the same; give one of them")
        level = self._values.get("compression-level", self._values.get("level"))
        if level is None:
            return Compression(compressor, compressor.default_level) if word != "gzip" else DEFAULT
        levels = compressor.levels
        if not levels:
            raise self._wrong(f"compression={word} has no level", "leave the level out")
        if not (level.isascii() and level.isdigit() and len(level) < 3 and int(level) in levels):
            raise self._wrong(f"{level!r} is no level of {word}", f"levels of {word}: {levels[0]} to {levels[-1]}")
        return Compression(compressor, int(level))

    def _oci_media_types(self, kind: OutputType) -> bool:
        """Docker's types only where other programs read them: never in an OCI layout, never for zstd."""
        wanted = self._flag("oci-mediatypes", True)
        if not wanted and kind is OutputType.OCI:
            raise self._wrong("an OCI layout with Docker's media types is read by nobody", "write type=docker")
        if not wanted and self._values.get("compression") == "zstd":
            raise self._wrong("Docker's media types have none for zstd", "leave out compression or oci-mediatypes")
        return wanted

    def _names(self) -> tuple[str, ...]:
        listed = self._values.get("name", "")
        return tuple(str(Reference.parse(name.strip())) for name in listed.split(",") if name.strip())

    def _annotations(self) -> Annotations:
        where = f"-o {self._text}"
        named = [(name, value) for name, value in self._values.items() if is_output_key(name)]
        return Annotations(tuple(parse_output_key(where, name, value) for name, value in named))

    def _disk_format(self) -> DiskFormat:
        word = self._values.get("format", DiskFormat.SQUASHFS.value)
        known = [one.value for one in DiskFormat]
        if word not in known:
            raise self._wrong(f"there is no disk format {word!r}", _nearest(word, known) or f"formats: {known}")
        return DiskFormat(word)

    def _disk_size(self) -> int:
        text = self._values.get("size")
        if text is None:
            return 0
        if self._disk_format() is not DiskFormat.EXT4:
            raise self._wrong("a squashfs is as large as its content", "leave size out, or add format=ext4")
        number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in _UNITS and text else (text, "")
        if not (number.isascii() and number.isdigit() and len(number) < 16):
            raise self._wrong(f"{text!r} is no size", "write bytes, or a number with K, M, G or T: size=2G")
        size = int(number) << (10 * (_UNITS.index(unit) + 1) if unit else 0)
        if not 1 << 20 <= size <= _MOST_BYTES:
            raise self._wrong(f"a disk of {text} cannot be", "choose a size between 1M and 16T")
        return size


def _nearest(word: str, known: Sequence[str] | Mapping[str, object]) -> str:
    import difflib

    found = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {found[0]}?" if found else ""
