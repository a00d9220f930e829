# Sourced by tools/demo and tools/test: makes .venv in the checkout, once for each state of the pins. Takes the extras to install.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
venv=$root/.venv
python=${PYTHON:-python3}

install() { # install STAMP PIP-ARGUMENTS...
    local stamp=$venv/.installed-$1
    shift
    local state
    state=$(cat pyproject.toml tools/constraints.txt tools/setup.sh | sha256sum)
    [ "$(cat "$stamp" 2>/dev/null)" = "$state$*" ] && return
    "$venv/bin/pip" install --quiet --disable-pip-version-check --constraint tools/constraints.txt "$@"
    echo "$state$*" >"$stamp"
}

if [ ! -x "$venv/bin/python" ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or later is needed" >&2; exit 1; }
    echo "Making $venv (about 3 minutes, once)"
    "$python" -m venv "$venv"
fi
# PyTorch first, and pinned: anything else that asks for it takes gigabytes of CUDA libraries.
install torch torch
export PATH="$venv/bin:$PATH"
