#!/usr/bin/env bash
# Install what is missing, then run the tests, a file of them on each core. Arguments go to pytest:
#   scripts/test.sh -m slow             the long tier
#   scripts/test.sh -n 0 tests/noise    some of them, in one process
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
# Two processes of two threads on two cores are slower than one, so each has one. A model fills gigabytes: no more than 4.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec .venv/bin/python -m pytest -q -n logical --maxprocesses 4 --dist loadscope "$@"
