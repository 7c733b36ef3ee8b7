# Sourced by demo and test. `prepare EXTRAS` makes sure that .venv holds this project with those extras, and does
# nothing when neither pyproject.toml nor constraints.txt changed since; then no network is needed.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

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

fingerprint() {
    { echo "$1"; cat "$root/pyproject.toml" "$root/constraints.txt"; } | "$venv/bin/python" -c \
        'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest(), *sys.version_info[:2])'
}

prepare() {
    local extras=$1 python stamp
    stamp=$venv/kmel-installed
    if [ ! -x "$venv/bin/python" ]; then
        python=$(find_python) || return 1
        echo "making a virtual environment in $venv ($("$python" --version))" >&2
        if ! "$python" -m venv "$venv"; then
            rm -rf "$venv"
            echo "cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2
            return 1
        fi
    fi
    # The development extras include everything the demo needs.
    for have in "$extras" demo,dev,gnn; do
        if [ -f "$stamp" ] && grep -qxF "$(fingerprint "$have")" "$stamp"; then
            return 0
        fi
    done
    echo "installing kmel_p2p [$extras] (the first time, this downloads several hundred megabytes)" >&2
    if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        -c "$root/constraints.txt" -e "$root[$extras]"; then
        echo "the installation failed; the lines above say why. Is the package index reachable?" >&2
        return 1
    fi
    fingerprint "$extras" >"$stamp"
}
