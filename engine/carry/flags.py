"""Reads --cache-from and --cache-to as docker buildx writes them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from cache.carry.urls import without_login
from engine.carry.spec import CacheMode, CacheSource, CacheTarget, CacheType
from engine.images.reference import Reference
from machinefile.commas import QuotesError, split_commas
from machinefile.errors import UsageError

_S3 = "s3"
"""docker buildx's word; here short for an URL."""
_FROM, _TO = "--cache-from", "--cache-to"
_WHERE: Mapping[CacheType, tuple[str, str]] = {
    CacheType.REGISTRY: ("ref", "ref"),
    CacheType.LOCAL: ("src", "dest"),
    CacheType.FSSPEC: ("url", "url"),
}
"""What names the place, for each option."""
_OPTIONS: Mapping[CacheType, tuple[str, ...]] = {CacheType.LOCAL: ("tag",)}
_S3_OPTIONS: Mapping[str, str] = {
    "endpoint_url": "endpoint_url",
    "access_key_id": "key",
    "secret_access_key": "secret",
    "session_token": "token",
}
"""docker buildx's words, and what s3fs calls them."""
_S3_KEYS = ("bucket", "prefix", "region", "use_path_style", *_S3_OPTIONS)
_OWN_FROM = ("verify-key",)
_OWN_TO = ("mode", "mounts", "sign-key", "ignore-error")
_SETTLED: Mapping[str, tuple[str, ...]] = {
    "oci-mediatypes": ("true",),
    "image-manifest": ("true",),
    "compression": ("gzip",),
    "force-compression": ("false",),
}
"""What docker buildx can be told, and the only thing that is done here."""
_SEVERAL = ("mounts", "verify-key")
_INSTEAD = {
    "gha": "save a folder with actions/cache and write type=local, or write type=registry with ghcr.io",
    "azblob": "write type=fsspec,url=az://CONTAINER/PREFIX,account_name=NAME; it takes the package adlfs",
}
_EXAMPLES = {
    _FROM: "write for example type=registry,ref=NAME, type=local,src=FOLDER or s3://BUCKET/PREFIX",
    _TO: "write for example type=registry,ref=NAME,mode=max, type=local,dest=FOLDER or s3://BUCKET/PREFIX",
}


def parse_sources(texts: Sequence[str]) -> tuple[CacheSource, ...]:
    """Read every --cache-from, in their order; what is named twice counts once.

    Raises UsageError: `cache-option`, `cache-unsupported`, `reference-invalid`.
    """
    return tuple(dict.fromkeys(fields.source() for text in texts for fields in _split(_FROM, text)))


def parse_targets(texts: Sequence[str]) -> tuple[CacheTarget, ...]:
    """Read every --cache-to. Raises UsageError as `parse_sources`, and for one place named twice."""
    targets = tuple(fields.target() for text in texts for fields in _split(_TO, text))
    taken: set[tuple[CacheType, str, tuple[tuple[str, str], ...]]] = set()
    for target in targets:
        place = (target.type, target.where, target.options)
        if place in taken:
            raise UsageError(f"{_TO} names {target.label} twice", code="cache-option", hint="name each place once")
        taken.add(place)
    return targets


def _split(option: str, text: str) -> list[_Fields]:
    """The fields of one option's value; several for names with commas between them, as docker buildx has it."""
    try:
        words = [word for word in split_commas(text) if word]
    except QuotesError as error:
        raise _wrong(
            option, text, f"it is not a line of CSV ({error})", 'write "NAME=VALUE" with both quotes'
        ) from error
    if not words:
        raise _wrong(option, text, "it is empty", _EXAMPLES[option])
    if "://" in words[0].partition("=")[0]:
        return [_Fields(option, text, ["type=fsspec", f"url={words[0]}", *words[1:]])]
    if not any("=" in word for word in words):
        return [_Fields(option, text, ["type=registry", f"ref={word}"]) for word in words]
    return [_Fields(option, text, words)]


def _wrong(option: str, text: str, why: str, hint: str = "", *, code: str = "cache-option") -> UsageError:
    # What follows the type may hold a password.
    shown = text.partition(",")[0]
    shown = without_login(shown) if "://" in shown else shown
    return UsageError(f"{option} {shown}: {why}", code=code, hint=hint)


class _Fields:
    """The fields of one place."""

    def __init__(self, option: str, text: str, words: Sequence[str]) -> None:
        self._option = option
        self._text = text
        self._values: dict[str, str] = {}
        self._lists: dict[str, list[str]] = {name: [] for name in _SEVERAL}
        for word in words:
            name, equals, value = word.partition("=")
            name = name.strip()
            if not equals or not name:
                raise self._wrong(f"{word!r} is not NAME=VALUE", _EXAMPLES[option])
            if name in self._lists:
                self._lists[name].append(value)
            elif name in self._values:
                raise self._wrong(f"{name} is given twice")
            else:
                self._values[name] = value

    def source(self) -> CacheSource:
        """Raises UsageError."""
        kind, where, options = self._place()
        if kind is CacheType.INLINE:
            raise self._wrong("a cache inside an image is found by the image's name", "write type=registry,ref=IMAGE")
        return CacheSource(kind, where, options, tuple(Path(self._file(key)) for key in self._lists["verify-key"]))

    def target(self) -> CacheTarget:
        """Raises UsageError."""
        kind, where, options = self._place()
        mode = self._mode()
        mounts = tuple(
            dict.fromkeys(
                word.strip() for listed in self._lists["mounts"] for word in listed.split(",") if word.strip()
            )
        )
        sign_key = Path(self._file(self._values["sign-key"])) if "sign-key" in self._values else None
        if kind is CacheType.INLINE:
            if mode is CacheMode.MAX:
                raise self._wrong(
                    "an image holds the cache of its own layers alone", "leave out mode=max, or write type=registry"
                )
            if mounts or sign_key:
                raise self._wrong("an image carries neither cache mounts nor signatures", "write type=registry")
        return CacheTarget(kind, where, options, mode, mounts, sign_key, self._flag("ignore-error"))

    def _place(self) -> tuple[CacheType, str, tuple[tuple[str, str], ...]]:
        word = self._values.pop("type", "")
        if word in _INSTEAD:
            raise self._wrong(f"type={word} is not supported", _INSTEAD[word], code="cache-unsupported")
        if word == _S3:
            return self._s3()
        known = [kind.value for kind in CacheType] + [_S3]
        if not word:
            raise self._wrong("type= is missing", _EXAMPLES[self._option])
        if word not in known:
            raise self._wrong(f"there is no type {word!r}", _nearest(word, known) or f"types: {', '.join(known)}")
        kind = CacheType(word)
        self._check(kind)
        if kind is CacheType.INLINE:
            return kind, "", ()
        name = _WHERE[kind][self._option == _TO]
        where = self._values.get(name, "")
        if not where:
            raise self._wrong(f"type={word} takes {name}=", _EXAMPLES[self._option])
        if kind is CacheType.REGISTRY:
            return kind, self._reference(where), ()
        if kind is CacheType.LOCAL:
            return kind, where, tuple((key, self._values[key]) for key in _OPTIONS[kind] if key in self._values)
        if "://" not in where:
            raise self._wrong(f"{where!r} is no URL", "write url=s3://BUCKET/PREFIX")
        mine = {name, *self._common()}
        return kind, where, tuple(sorted((key, value) for key, value in self._values.items() if key not in mine))

    def _s3(self) -> tuple[CacheType, str, tuple[tuple[str, str], ...]]:
        self._check_names((*_S3_KEYS, *self._common()))
        bucket = self._values.get("bucket", "")
        if not bucket:
            raise self._wrong("type=s3 takes bucket=", "write type=s3,bucket=NAME,prefix=PATH")
        prefix = self._values.get("prefix", "").strip("/")
        found = {theirs: self._values[ours] for ours, theirs in _S3_OPTIONS.items() if ours in self._values}
        if region := self._values.get("region"):
            found["client_kwargs.region_name"] = region
        if self._flag("use_path_style"):
            found["config_kwargs.s3.addressing_style"] = "path"
        return CacheType.FSSPEC, f"s3://{bucket}/{prefix}".rstrip("/"), tuple(sorted(found.items()))

    def _check(self, kind: CacheType) -> None:
        """Refuse what means nothing for the type; what a URL's file system takes is for that to say."""
        name = () if kind is CacheType.INLINE else (_WHERE[kind][self._option == _TO],)
        known = (*name, *_OPTIONS.get(kind, ()), *self._common())
        if kind is not CacheType.FSSPEC:
            self._check_names(known)
            return
        for given in self._given():
            near = difflib.get_close_matches(given.replace("_", "-"), known, 1, 0.7)
            if given not in known and (near or given in _SEVERAL):
                raise self._wrong(f"{given} is not known", f"did you mean {near[0]}?" if near else "")
        self._settle()

    def _given(self) -> tuple[str, ...]:
        return (*self._values, *(name for name, values in self._lists.items() if values))

    def _check_names(self, known: Sequence[str]) -> None:
        for given in self._given():
            if given not in known:
                raise self._wrong(f"{given} is not known", _nearest(given, known) or f"it takes: {', '.join(known)}")
        self._settle()

    def _settle(self) -> None:
        if self._option == _FROM:
            return
        for name, allowed in _SETTLED.items():
            if self._values.get(name, allowed[0]) not in allowed:
                raise self._wrong(
                    f"{name}={self._values[name]} is not supported",
                    f"leave it out: layers go out as the image has them, in an OCI artifact ({name}={allowed[0]})",
                    code="cache-unsupported",
                )

    def _common(self) -> tuple[str, ...]:
        return _OWN_FROM if self._option == _FROM else (*_OWN_TO, *_SETTLED)

    def _reference(self, text: str) -> str:
        reference = Reference.parse(text)
        if reference.digest and self._option == _TO:
            raise self._wrong("a cache is written to a tag, not to a digest", "write ref=NAME:TAG")
        return str(reference)

    def _mode(self) -> CacheMode:
        word = self._values.get("mode", CacheMode.MIN.value)
        if word not in (CacheMode.MIN.value, CacheMode.MAX.value):
            raise self._wrong(f"there is no mode {word!r}", "write mode=min, or mode=max for all stages")
        return CacheMode(word)

    def _flag(self, name: str) -> bool:
        word = self._values.get(name, "false")
        if word not in ("true", "false", "1", "0"):
            raise self._wrong(f"{name} is {word!r}", f"write {name}=true or {name}=false")
        return word in ("true", "1")

    def _file(self, path: str) -> str:
        if not path:
            raise self._wrong("a key's file has no name", "write sign-key=FILE, verify-key=FILE")
        return path

    def _wrong(self, why: str, hint: str = "", *, code: str = "cache-option") -> UsageError:
        return _wrong(self._option, self._text, why, hint, code=code)


def _nearest(word: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, known, 1)
    return f"did you mean {found[0]}?" if found else ""
