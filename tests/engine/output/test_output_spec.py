"""-o as people write it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.output.annotations import Annotation, Annotations
from engine.output.compress import Compression, Compressor
from engine.output.kinds import STDOUT, DiskFormat, OutputSpec, OutputType
from engine.output.spec import parse_output, parse_outputs
from machinefile.errors import UsageError

GZIP9 = Compression(Compressor.GZIP, 9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("out", OutputSpec(OutputType.LOCAL, Path("out"))),
        ("./a=b", OutputSpec(OutputType.LOCAL, Path("a=b"))),
        ("/tmp/x", OutputSpec(OutputType.LOCAL, Path("/tmp/x"))),
        ("-", OutputSpec(OutputType.TAR, STDOUT)),
        ("type=tar", OutputSpec(OutputType.TAR, STDOUT)),
        ("type=tar,dest=-", OutputSpec(OutputType.TAR, STDOUT)),
        ("type=docker", OutputSpec(OutputType.DOCKER, STDOUT)),
        ("type=local,dest=a b", OutputSpec(OutputType.LOCAL, Path("a b"))),
        ('type=oci,"dest=a,b"', OutputSpec(OutputType.OCI, Path("a,b"))),
        ("type=oci,dest=x.tar", OutputSpec(OutputType.OCI, Path("x.tar"), tar=True)),
        ("type=oci,dest=x.tar,tar=false", OutputSpec(OutputType.OCI, Path("x.tar"))),
        ("type=oci", OutputSpec(OutputType.OCI, STDOUT, tar=True)),
        ("DEST=x,Type=oci", OutputSpec(OutputType.OCI, Path("x"))),
        (
            "type=oci,dest=x,compression=gzip,compression-level=9",
            OutputSpec(OutputType.OCI, Path("x"), compression=GZIP9),
        ),
        (
            "type=docker,dest=x,compression=zstd,level=19,force-compression=true",
            OutputSpec(
                OutputType.DOCKER, Path("x"), compression=Compression(Compressor.ZSTD, 19), force_compression=True
            ),
        ),
        (
            "type=oci,dest=x,compression=uncompressed",
            OutputSpec(OutputType.OCI, Path("x"), compression=Compression(Compressor.NONE, 0)),
        ),
        (
            'type=image,"name=a,b/c:1",push=true,oci-mediatypes=false',
            OutputSpec(
                OutputType.IMAGE,
                names=("docker.io/library/a:latest", "docker.io/b/c:1"),
                push=True,
                oci_media_types=False,
            ),
        ),
        ("type=registry,name=a", OutputSpec(OutputType.IMAGE, names=("docker.io/library/a:latest",), push=True)),
        (
            "type=oci,dest=x,annotation.Z=1,annotation-manifest.org.A=b=c",
            OutputSpec(
                OutputType.OCI, Path("x"), annotations=Annotations((Annotation("Z", "1"), Annotation("org.A", "b=c")))
            ),
        ),
        ("type=disk,dest=x", OutputSpec(OutputType.DISK, Path("x"))),
        (
            "type=disk,dest=x,format=ext4,size=2G",
            OutputSpec(OutputType.DISK, Path("x"), disk_format=DiskFormat.EXT4, disk_size=2 << 30),
        ),
    ],
)
def test_an_output_is_read_as_it_is_meant(text: str, expected: OutputSpec) -> None:
    assert parse_output(text) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "type is missing"),
        ("dest=x", "type is missing"),
        ("type=", "type is missing"),
        ("type=ocy,dest=x", "did you mean oci"),
        ("type=oci,dset=x", "did you mean dest"),
        ("type=oci,dest=x,compresion=gzip", "did you mean compression"),
        ("type=oci,dest=x,compression=zst", "did you mean zstd"),
        ("type=oci,dest=x,compression=xz", "compressions: gzip"),
        ("type=oci,dest=x,compression=none,level=1", "no level"),
        ("type=oci,dest=x,compression=zstd,level=0", "1 to 22"),
        ("type=oci,dest=x,level=10", "0 to 9"),
        ("type=oci,dest=x,level=-1", "0 to 9"),
        ("type=oci,dest=x,level=1,compression-level=1", "mean the same"),
        ("type=oci,dest=x,tar=perhaps", "true or false"),
        ("type=oci,dest=x,dest=y", "given twice"),
        ("type=oci,dest=", "dest=PATH is missing"),
        ("type=oci,tar=false", "needs a folder"),
        ("type=oci,dest=x,annotation.=y", "names no annotation"),
        ("type=oci,x", "not NAME=VALUE"),
        ("type=oci,=x", "not NAME=VALUE"),
        ('type=oci,"dest=x', "CSV"),
        ("type=local", "needs a folder"),
        ("type=local,dest=-", "needs a folder"),
        ("type=local,dest=x,compression=gzip", "compression is for type=oci"),
        ("type=docker,dest=x,tar=false", "tar is for type=oci"),
        ("type=image,dest=x", "dest is for"),
        ("type=oci,dest=x,oci-mediatypes=false", "type=docker"),
        ("type=image,name=x,compression=zstd,oci-mediatypes=false", "none for zstd"),
        ("type=tar,push=true", "push is for type=image"),
        ("type=disk", "needs a file"),
        ("type=disk,dest=x,format=ext3", "did you mean ext4"),
        ("type=disk,dest=x,size=1G", "squashfs"),
        ("type=disk,dest=x,format=ext4,size=", "no size"),
        ("type=disk,dest=x,format=ext4,size=1X", "no size"),
        ("type=disk,dest=x,format=ext4,size=0", "cannot be"),
        ("type=disk,dest=x,format=ext4,size=99999T", "cannot be"),
    ],
)
def test_a_mistake_is_named_and_mended(text: str, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_output(text)
    assert caught.value.code == "output-invalid"
    assert part in caught.value.message + " " + caught.value.hint


def test_a_machine_goes_into_a_folder() -> None:
    assert parse_output("type=machine,dest=x") == OutputSpec(OutputType.MACHINE, Path("x"))
    with pytest.raises(UsageError, match="needs a folder"):
        parse_output("type=machine")


@given(
    st.lists(st.sampled_from(["type=", "oci", "disk", "dest", "=", ",", '"', "-", "/", "level", "ü", " ", "\n"])).map(
        "".join
    )
)
def test_any_text_is_read_or_refused(text: str) -> None:
    code = ""
    spec = None
    try:
        spec = parse_output(text)
    except UsageError as error:
        code = error.code
    if spec is None:
        assert code in ("output-invalid", "output-unsupported", "reference-invalid")
    else:
        assert spec.to_stdout or spec.type is OutputType.IMAGE or str(spec.destination)


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(
        lambda path: path != "-"
    ),
    st.sampled_from([Compressor.GZIP, Compressor.ZSTD]),
    st.integers(1, 9),
    st.booleans(),
)
def test_every_path_can_be_named_in_quotes(path: str, compressor: Compressor, level: int, force: bool) -> None:
    quoted = '"dest=' + path.replace('"', '""') + '"'
    forced = str(force).lower()
    spec = parse_output(f"type=docker,{quoted},compression={compressor.value},level={level},force-compression={forced}")
    assert spec == OutputSpec(
        OutputType.DOCKER, Path(path), compression=Compression(compressor, level), force_compression=force
    )


def test_one_place_gets_one_output() -> None:
    with pytest.raises(UsageError) as caught:
        parse_outputs(["type=tar", "type=docker"])
    assert caught.value.code == "output-twice"
    with pytest.raises(UsageError) as caught:
        parse_outputs(["out", f"type=oci,dest={Path.cwd()}/out"])
    assert caught.value.code == "output-twice"
    assert len(parse_outputs(["a", "b", "type=image,name=x", "type=image,name=y", "-"])) == 4 + 1


def test_a_terminal_gets_no_bytes() -> None:
    with pytest.raises(UsageError) as caught:
        parse_outputs(["type=docker"], terminal=True)
    assert caught.value.code == "output-terminal"
    assert parse_outputs(["type=docker,dest=x", "type=image,name=y"], terminal=True)
