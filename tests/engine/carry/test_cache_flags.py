"""--cache-from and --cache-to, as docker buildx writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.carry.flags import parse_sources, parse_targets
from engine.carry.spec import CacheMode, CacheSource, CacheTarget, CacheType
from machinefile.errors import UsageError

REGISTRY, LOCAL, INLINE, FSSPEC = CacheType.REGISTRY, CacheType.LOCAL, CacheType.INLINE, CacheType.FSSPEC


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("type=registry,ref=example.com/app:cache", CacheSource(REGISTRY, "example.com/app:cache")),
        ("app", CacheSource(REGISTRY, "docker.io/library/app:latest")),
        ("localhost:5000/app:c", CacheSource(REGISTRY, "localhost:5000/app:c")),
        ("type=local,src=some/dir", CacheSource(LOCAL, "some/dir")),
        ('type=local,"src=a,b",tag=main', CacheSource(LOCAL, "a,b", (("tag", "main"),))),
        ("s3://bucket/prefix", CacheSource(FSSPEC, "s3://bucket/prefix")),
        ("memory://x,verify-key=k.pub", CacheSource(FSSPEC, "memory://x", verify_keys=(Path("k.pub"),))),
        (
            "type=fsspec,url=gs://b/p,project=x,anon=true",
            CacheSource(FSSPEC, "gs://b/p", (("anon", "true"), ("project", "x"))),
        ),
        (
            "type=s3,bucket=b,prefix=/p/,region=eu-1,endpoint_url=http://h,access_key_id=i,use_path_style=true",
            CacheSource(
                FSSPEC,
                "s3://b/p",
                (
                    ("client_kwargs.region_name", "eu-1"),
                    ("config_kwargs.s3.addressing_style", "path"),
                    ("endpoint_url", "http://h"),
                    ("key", "i"),
                ),
            ),
        ),
        (
            "type=registry,ref=h.io/a,verify-key=one,verify-key=two",
            CacheSource(REGISTRY, "h.io/a:latest", verify_keys=(Path("one"), Path("two"))),
        ),
    ],
)
def test_sources(text: str, source: CacheSource) -> None:
    assert parse_sources([text]) == (source,)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("type=registry,ref=h.io/a:c,mode=max", CacheTarget(REGISTRY, "h.io/a:c", mode=CacheMode.MAX)),
        ("h.io/a:c", CacheTarget(REGISTRY, "h.io/a:c")),
        ("type=local,dest=d,ignore-error=true", CacheTarget(LOCAL, "d", ignore_error=True)),
        ("type=inline", CacheTarget(INLINE, "")),
        ("file:///tmp/x,mode=max,mounts=*", CacheTarget(FSSPEC, "file:///tmp/x", (), CacheMode.MAX, ("*",))),
        (
            'type=registry,ref=h.io/a,mounts=/root/.cache,"mounts=b, c",mounts=b',
            CacheTarget(REGISTRY, "h.io/a:latest", mounts=("/root/.cache", "b", "c")),
        ),
        (
            "type=registry,ref=h.io/a,sign-key=k,oci-mediatypes=true,image-manifest=true,compression=gzip",
            CacheTarget(REGISTRY, "h.io/a:latest", sign_key=Path("k")),
        ),
    ],
)
def test_targets(text: str, target: CacheTarget) -> None:
    assert parse_targets([text]) == (target,)


def test_names_with_commas_between_them_are_several_and_twice_counts_once() -> None:
    assert [source.where for source in parse_sources(["h.io/a,h.io/b", "h.io/a"])] == ["h.io/a:latest", "h.io/b:latest"]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", "cache-option", "empty"),
        ("type=registry", "cache-option", "ref="),
        ("ref=a", "cache-option", "type= is missing"),
        ("type=regstry,ref=a", "cache-option", "registry?"),
        ("type=registry,reff=a", "cache-option", "ref?"),
        ("type=registry,ref=h.io/a,src=b", "cache-option", "src is not known"),
        ("type=registry,ref=A_", "reference-invalid", ""),
        ("type=local,dest=d", "cache-option", "dest is not known"),
        ("type=gha", "cache-unsupported", "actions/cache"),
        ("type=azblob,name=x", "cache-unsupported", "az://"),
        ("type=inline", "cache-option", "type=registry,ref=IMAGE"),
        ("type=fsspec,url=bucket", "cache-option", "no URL"),
        ("type=s3,prefix=p", "cache-option", "bucket="),
        ("type=s3,bucket=b,regoin=x", "cache-option", "region?"),
        ("s3://b,verify_key=x", "cache-option", "verify-key?"),
        ("s3://b,verify-key=", "cache-option", "no name"),
        ("type=local,src=a,src=b", "cache-option", "twice"),
        ("type=local,src", "cache-option", "NAME=VALUE"),
        ('type=local,"src=a', "cache-option", "CSV"),
        ("s3://b,mounts=x", "cache-option", "mounts is not known"),
    ],
)
def test_sources_that_cannot_be(text: str, code: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_sources([text])
    assert caught.value.code == code
    assert said in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("type=registry,ref=h.io/a,mode=most", "cache-option", "mode=max"),
        ("type=registry,ref=h.io/a,ignore-error=maybe", "cache-option", "ignore-error=true"),
        ("type=registry,ref=h.io/a,compression=zstd", "cache-unsupported", "as the image has them"),
        ("type=registry,ref=h.io/a,compression-level=3", "cache-option", ""),
        ("type=registry,ref=h.io/a,image-manifest=false", "cache-unsupported", ""),
        (f"type=registry,ref=h.io/a@sha256:{'0' * 64}", "cache-option", "tag"),
        ("type=inline,mode=max", "cache-option", "mode=max"),
        ("type=inline,mounts=x", "cache-option", "type=registry"),
        ("type=inline,sign-key=x", "cache-option", "type=registry"),
        ("type=local,src=d", "cache-option", "src is not known"),
        ("s3://b,mods=max", "cache-option", "mode?"),
        ("s3://b,verify-key=x", "cache-option", "verify-key is not known"),
        ("type=registry,ref=h.io/a,sign-key=", "cache-option", "no name"),
    ],
)
def test_targets_that_cannot_be(text: str, code: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_targets([text])
    assert caught.value.code == code
    assert said in f"{caught.value.message} {caught.value.hint}"


def test_one_place_is_named_once() -> None:
    with pytest.raises(UsageError, match="twice"):
        parse_targets(["h.io/a", "type=registry,ref=h.io/a,mode=max"])
    assert len(parse_targets(["type=local,dest=d,tag=a", "type=local,dest=d,tag=b"])) == 2


def test_passwords_are_not_shown() -> None:
    (source,) = parse_sources(["type=fsspec,url=ftp://ada:secret@h/p?token=secret,password=secret"])
    assert source.label == "ftp://h/p"
    assert "secret" not in source.label
    assert source.options == (("password", "secret"),)
    for text in ("type=s3,secret_access_key=secret,bucket=b,nonsense=1", "s3://ada:secret@b,mods=max"):
        with pytest.raises(UsageError) as caught:
            parse_targets([text])
        assert "secret" not in caught.value.message.replace("secret_access_key", "")
