#!/usr/bin/env bash
# one_shot.sh [PYTHON] OUT_DIR [--tiny] [--only main,vram] [--minutes 8]: all that one card can tell, in one command.
# PYTHON: a venv or its interpreter, where rigbench is installed. Default: $PYTHON, else the checkout's .venv, else python3.
set -euo pipefail
checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
python="${PYTHON:-}"
if [ $# -ge 2 ] && [ "${2#-}" = "$2" ]; then
  python="$1"
  shift
fi
[ -n "$python" ] || python="$([ -x "$checkout/.venv/bin/python" ] && echo "$checkout/.venv/bin/python" || echo python3)"
[ ! -x "$python/bin/python" ] || python="$python/bin/python"
[ $# -ge 1 ] && [ "${1#-}" = "$1" ] || { sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
command -v "$python" > /dev/null || { echo "one_shot.sh: no Python at $python; give a venv, or set PYTHON" >&2; exit 2; }
mkdir -p "$1"
out="$(cd "$1" && pwd)"
shift
cd "$checkout"
PYTHONPATH="$checkout/tests/gpu:$checkout${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m one_shot "$out" "$@"
