# Sourced by demo and test. `prepare SET` makes sure that .venv holds the packages of requirements/SET.txt and this
# project, and does nothing when neither the project's dependencies nor their pins changed since; then it needs no
# network. The sets: demo (for the demo), dev (for all checks), light (for unit tests without torch).

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

# The path of an interpreter, or nothing: interpreter 3.12
interpreter() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python3; do
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.12 python3.11 python3.13 python3 python}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "kmel_p2p needs Python 3.11, 3.12 or 3.13. Looked for: ${PYTHON:-python3.12 python3.11 python3.13 python3 python};" >&2
    echo "python3 here is: $(python3 --version 2>&1 || echo missing)." >&2
    echo "Install one of them, or name it: PYTHON=/path/to/python3.12 $0" >&2
    return 1
}

# What the content of an environment follows from: fingerprint SET PYTHON
fingerprint() {
    { echo "$1"; cat "$root/pyproject.toml" "$root/constraints.txt" "$root"/requirements/*.txt; } | "$2" -c \
        'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest(), *sys.version_info[:2])'
}

# Whether an interpreter has the release of torch that constraints.txt names, whatever the build: torch_is_pinned PYTHON
torch_is_pinned() {
    local version
    version=$("$1" -c 'import importlib.metadata as m; print(m.version("torch").partition("+")[0])' 2>/dev/null) &&
        grep -qxF "torch==$version" "$root/constraints.txt"
}

# Installs the packages of a set, and the project itself where the set is not `light`: install SET PYTHON
install() {
    # What is imported is compiled then, and the rest never; for the demo, `prepare` compiles with all cores.
    local pip=("$2" -m pip install --quiet --no-compile --disable-pip-version-check)
    if [ "$(uname -sm)" != "Linux x86_64" ]; then
        echo "requirements/ has pins for Linux on x86_64 only; installing the newest releases that fit" >&2
        local extras=demo,dev,gnn
        [ "$1" != demo ] || extras=demo
        "${pip[@]}" -c "$root/constraints.txt" -e "$root[$extras]"
        return
    fi
    "${pip[@]}" --require-hashes --no-deps -r "$root/requirements/$1.txt" || return
    [ "$1" != light ] || return 0
    # The package index serves torch's CUDA build, several GB in all; this machine's pip may know one without CUDA.
    "${pip[@]}" --require-hashes --no-deps -r "$root/requirements/torch-cpu.txt" 2>/dev/null || true
    if ! torch_is_pinned "$2"; then
        "${pip[@]}" --require-hashes --no-deps -r "$root/requirements/torch-cuda.txt" || return
    fi
    "${pip[@]}" --no-deps --no-build-isolation -e "$root"
}

# prepare SET [VENV PYTHON]
prepare() {
    local set=$1 home=${2:-$venv} python=${3:-} have
    if [ ! -x "$home/bin/python" ]; then
        python=${python:-$(find_python)} || return 1
        echo "making a virtual environment in $home ($("$python" --version))" >&2
        if ! "$python" -m venv "$home"; then
            rm -rf "$home"
            echo "cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2
            return 1
        fi
    fi
    # What the checks need includes all else.
    for have in "$set" dev; do
        if grep -qxF "$(fingerprint "$have" "$home/bin/python")" "$home/kmel-installed" 2>/dev/null; then
            return 0
        fi
    done
    echo "installing what the $set set needs in $home (the first time, this downloads several hundred megabytes)" >&2
    if ! install "$set" "$home/bin/python"; then
        echo "the installation failed; the lines above say why. Is the package index reachable?" >&2
        return 1
    fi
    # pip compiles with one core. Without this, every process of the demo would compile what it imports wherever Python is
    # told not to write bytecode, and start seconds later. Some packages carry files that are no Python of this version.
    if [ "$set" = demo ]; then
        "$home/bin/python" -m compileall -q -j 0 "$home"/lib/python*/site-packages "$root/kmel_p2p" >/dev/null 2>&1 || true
    fi
    fingerprint "$set" "$home/bin/python" >"$home/kmel-installed"
}
