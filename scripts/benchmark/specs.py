"""The files that are built, and their contexts."""

from __future__ import annotations

from pathlib import Path

TWO_STAGES = """\
FROM {base} AS build
RUN echo one > /one
RUN echo two > /two
COPY src /src
COPY blob /blob
RUN ls /src | wc -l > /count
FROM {base}
WORKDIR /srv
COPY --from=build /count /srv/count
COPY --from=build /src /srv/src
ENV A=b
RUN cat /srv/count
CMD ["cat", "/srv/count"]
"""
COPIED = "FROM {base}\nCOPY src /src\n"
NOTHING = "FROM {base}\nENV a=b\n"
COLD = 'FROM {base}\nRUN echo ma""rk-begun\n'
BIG_FILE = """\
FROM {base}
RUN set -e; : {turn}; echo ma""rk-begun; head -c 8388608 /dev/urandom > /noise; \\
    yes {turn} words that compress | head -c 8388608 > /text; \\
    i=0; while [ $i -lt 64 ]; do cat /noise /text; i=$((i + 1)); done > /big; rm /noise /text; sync; \\
    test "$(stat -c %s /big)" = 1073741824; echo ma""rk-written
RUN : {turn}; test -s /big
"""
SMALL_FILES = """\
FROM {base}
RUN set -e; : {turn}; echo ma""rk-begun; d=0; while [ $d -lt 50 ]; do mkdir -p /many/$d; i=0; \\
    while [ $i -lt 1000 ]; do echo $d $i > /many/$d/$i; i=$((i + 1)); done; d=$((d + 1)); done; sync; \\
    test "$(find /many -type f | wc -l)" = 50000; echo ma""rk-written
RUN : {turn}; test -s /many/49/999
"""
MACHINE = """\
FROM {base}
MACHINE cpus=1 memory=256M disk=256M
RUN mkdir /www && echo hello > /www/index.html
CMD ["httpd", "-f", "-p", "80", "-h", "/www"]
SNAPSHOT --ready=tcp:80
"""


def trivial_runs(base: str, number: int, turn: int) -> str:
    """RUNs that do nothing, and that no other turn has."""
    return f"FROM {base}\n" + "".join(f"RUN : {turn} {step}\n" for step in range(number))


def parallel_stages(base: str, number: int, turn: int) -> str:
    """Stages that need one another not, of a RUN each, and one that takes a file of each."""
    loop = "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done"
    stages = "".join(f"FROM {base} AS s{stage}\nRUN {loop}; echo {stage} {turn} > /out\n" for stage in range(number))
    return stages + f"FROM {base}\n" + "".join(f"COPY --from=s{stage} /out /{stage}\n" for stage in range(number))


def many_instructions(base: str, number: int) -> str:
    """A file of so many instructions, of every kind that is common."""
    lines = [f"FROM {base}"]
    for count in range(1, number):
        match count % 5:
            case 0:
                lines.append(f"ENV NAME_{count}=value-{count}")
            case 1:
                lines.append(f"LABEL label.{count}=$NAME_{count - 1}" if count > 5 else "LABEL first=yes")
            case 2:
                lines.append(f"COPY small /place/{count}")
            case 3:
                lines.append(f"WORKDIR /work/{count}")
            case _:
                lines.append(f"RUN echo {count} >> /log")
    return "\n".join(lines) + "\n"


def write_files(folder: Path, number: int) -> None:
    """Small files, 1,000 a folder."""
    for start in range(0, number, 1000):
        place = folder / str(start // 1000)
        place.mkdir(parents=True)
        for count in range(start, min(start + 1000, number)):
            (place / f"{count}.txt").write_text(f"file {count}\n" * 20)


def write_blob(path: Path, size: int) -> None:
    """Bytes that look random and are the same each time."""
    state, chunk = 1, bytearray()
    for _ in range(1 << 12):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        chunk += state.to_bytes(8, "little")
    with path.open("wb") as out:
        for count in range(size // len(chunk)):
            chunk[:8] = count.to_bytes(8, "little")
            out.write(chunk)
