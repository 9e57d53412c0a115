#!/usr/bin/env bash
# Install what is missing, then teach a 135M-parameter model film reviews by forward passes alone.
# Arguments go to zoft-train and win over the recipe: scripts/quickstart.sh --max_steps 20
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh --no-test
exec .venv/bin/zoft-train --config recipes/quickstart.yaml "$@"
