#!/usr/bin/env bash
# bash run_mi.sh              environment, then the demo: a small corpus, both tasks, a table and a picture
# bash run_mi.sh -m train ... environment, then run_downstream.py with these arguments
# bash run_mi.sh test         environment, then ruff, type check, rule of dependency and tests
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$repo/.venv
stamp=$venv/.s3prl_mi

say() { printf '%s\n' "run_mi.sh: $*" >&2; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10 python; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# The environment is made anew only when pyproject.toml, the start-up line or this script has changed.
wanted() { cat "$repo/pyproject.toml" "$repo/s3prl_mi/s3prl_mi.pth" "$repo/run_mi.sh" | cksum; }

install_with_uv() {
    # uv brings a Python of its own where the machine has none that fits.
    local python
    python=$(find_python) || python=3.12
    uv venv --quiet --clear --python "$python" "$venv" &&
        uv pip install --quiet --python "$venv/bin/python" -e "$repo[test,s3prl]"
}

install_with_pip() {
    local python
    python=$(find_python) || {
        say "no Python from 3.10 to 3.13 found. Install one, or uv (https://docs.astral.sh/uv), or name it: PYTHON=/path/to/python3 bash run_mi.sh"
        return 1
    }
    rm -rf "$venv"
    "$python" -m venv "$venv" || {
        say "'$python -m venv' failed; on Debian and Ubuntu: apt install python3-venv"
        return 1
    }
    "$venv/bin/python" -m pip install --quiet -e "$repo[test,s3prl]"
}

environment() {
    if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(wanted)" ]; then
        return
    fi
    local tool=pip
    if command -v uv >/dev/null 2>&1 && [ "${S3PRL_MI_PIP:-}" != 1 ]; then tool=uv; fi
    say "installing into $venv with $tool (once; some GB and a few minutes, mostly torch)"
    "install_with_$tool" || {
        say "the installation failed; its messages are above. Remove $venv and try again (S3PRL_MI_PIP=1 takes pip instead of uv)."
        exit 1
    }
    wanted >"$stamp"
}

run_tests() {
    cd "$repo"
    "$venv/bin/ruff" check .
    "$venv/bin/ruff" format --check .
    "$venv/bin/mypy"
    "$venv/bin/lint-imports" --no-cache
    # Last, so that pytest's closing line closes the output and its exit status is ours. A process a core, with one
    # thread each; the tests of a file stay together, as they share models and corpora.
    OMP_NUM_THREADS=1 "$venv/bin/python" -m pytest -n logical --dist loadfile "$@"
}

environment
if [ "${1:-}" = test ]; then
    shift
    run_tests "$@"
    exit
fi
for word in "$@"; do
    case $word in
    -d* | --downstream | --downstream=* | -e* | --past_exp | --past_exp=* | -m | --mode | --mode=*)
        exec "$venv/bin/run_downstream.py" "$@"
        ;;
    esac
done
exec "$venv/bin/s3prl-mi" demo "$@"
