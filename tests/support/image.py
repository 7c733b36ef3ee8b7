"""`deploy/Dockerfile` played without a container engine: its instructions in a chroot over this machine's files.

An overlay keeps all that is written in memory. Three things differ from a container. The base image is this machine's
own system and Python; the packages that `pip install -r` and `apt-get` would fetch are this machine's, too; and both
stages share one root, so `COPY --from` has nothing to do. All else runs as it stands: virtual environment, copied
files, installation, user, environment, entry point, health check. What runs in the image has no privileges, a read-only
root, and a network of its own.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
DEPENDENCIES = "/mnt/dependencies"
FETCHES = re.compile(r"^\s*(apt-get |rm -rf /var/lib/apt|\S*pip install .*-r )")
"""Commands that fetch packages from elsewhere."""

SET_UP = """
set -euo pipefail
cd {scratch}
mkdir -p layer image
mount -t tmpfs tmpfs layer
mkdir layer/upper layer/work
mount -t overlay overlay -o lowerdir=/,upperdir=layer/upper,workdir=layer/work image
chmod 711 image/root  # the interpreter may lie in a home directory
mkdir -p image{dependencies}
mount --bind {packages} image{dependencies}
mount -t proc proc image/proc
mount --rbind /dev image/dev
ip link set lo up
export PATH={python}:$PATH
unset PYTHONPATH RDBASE  # RDKit sets the latter, to its own place, in each process that imports it
"""

LOCK_UP = """
mkdir -p image{volume}
mount -t tmpfs -o mode=0700 tmpfs image{volume}
chroot image chown kmel:kmel {volume}
mount -t tmpfs tmpfs image/tmp
mount -o remount,ro image
inside() {{ chroot image setpriv --reuid {user} --regid {user} --clear-groups --no-new-privs --bounding-set -all \\
    --inh-caps -all env -C {workdir} "$@"; }}
"""


def instructions() -> Iterator[tuple[str, str]]:
    """Of the Dockerfile in order: keyword and the rest, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text("utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(str.strip, text.splitlines()):
        keyword, _, rest = line.partition(" ")
        yield keyword, rest.strip()


def played(scratch: Path, check: str) -> str:
    """A shell script that builds the image and then runs `check`, lines of bash, with a function `inside` (a command in
    the container), and the variables `entry`, `command` and `health` of the image.

    Run it as root in namespaces of its own for mounts, network and processes.
    """
    lines = [
        SET_UP.format(
            scratch=shlex.quote(str(scratch)),
            dependencies=DEPENDENCIES,
            packages=shlex.quote(sysconfig.get_path("purelib")),
            python=shlex.quote(str(Path(sys.base_prefix) / "bin")),
        )
    ]
    found = {"WORKDIR": "/", "USER": "root", "VOLUME": "/srv", "ENTRYPOINT": "[]", "CMD": "[]", "HEALTHCHECK": ""}
    for keyword, rest in instructions():
        match keyword:
            case "RUN":
                lines += _run(rest, found["WORKDIR"])
            case "COPY" if "--from" not in rest:
                *sources, target = rest.split()
                place = f"image{found['WORKDIR']}/{target}"
                lines.append(f"mkdir -p {place}")
                lines += (f"cp -r {shlex.quote(f'{ROOT}/{source}')} {place}" for source in _whole(sources))
            case "ENV":
                lines.append(f"export {rest}")
            case "HEALTHCHECK":
                found[keyword] = rest.partition("CMD ")[2]
            case _:
                found[keyword] = rest
        if keyword == "WORKDIR":
            lines.append(f"mkdir -p image{rest}")
    lines.append(LOCK_UP.format(volume=found["VOLUME"], user=found["USER"], workdir=found["WORKDIR"]))
    for name, keyword in (("entry", "ENTRYPOINT"), ("command", "CMD"), ("health", "HEALTHCHECK")):
        lines.append(f"{name}=({shlex.join(json.loads(found[keyword]))})")
    return "\n".join([*lines, check])


def _run(line: str, workdir: str) -> list[str]:
    """The commands of a RUN that fetch nothing; a virtual environment gets this machine's packages."""
    kept = [part.strip() for part in line.split("&&") if not FETCHES.match(part)]
    lines = [f"chroot image env -C {workdir} bash -c {shlex.quote(' && '.join(kept))}"] if kept else []
    lines += (
        f"echo {DEPENDENCIES} > $(echo image{place}/lib/python*/site-packages)/dependencies.pth"
        for place in re.findall(r"python -m venv (\S+)", line)
    )
    return lines


def _whole(sources: list[str]) -> list[str]:
    """Of a folder, Docker copies what is in it."""
    return [f"{source}/." if (ROOT / source).is_dir() else source for source in sources]
