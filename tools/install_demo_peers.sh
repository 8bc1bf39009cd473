#!/bin/sh
# Make environments with lerobot and robomimic, against which tests/interop/test_demo_peers.py checks our demonstrations.
#
#   tools/install_demo_peers.sh [FOLDER]     build/peers without FOLDER; about 200 MB each
#
# Both take torch, numpy, h5py and PyAV from tracekit's own environment (.venv, or $VENV), so that nothing large is installed twice; what they
# need besides comes from PyPI. Their own pins (torch < 2.11, av < 16) are thereby passed over, which reading and writing data sets stands.
# torchcodec, with which lerobot decodes videos, looks for FFmpeg's libraries under their plain names: FOLDER/lerobot/ffmpeg has links to
# those that PyAV brings along.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
venv=${VENV:-$here/.venv}
peers=${1:-$here/build/peers}
test -x "$venv/bin/python" || { echo "there is no environment $venv: run make first, or name one with VENV" >&2; exit 1; }
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

new_environment() {
    "$venv/bin/python" -m venv "$peers/$1"
    own=$("$peers/$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$site" > "$own/tracekit-environment.pth"
}

# torchcodec is built for one version of torch: this one for 2.15, which constraints.txt has. TORCHCODEC names another.
torchcodec=${TORCHCODEC:-0.17.0}

new_environment robomimic
"$peers/robomimic/bin/pip" install --quiet --no-deps robomimic==0.3.0 psutil six termcolor tensorboardX imageio imageio-ffmpeg

new_environment lerobot
"$peers/lerobot/bin/pip" install --quiet "datasets>=4,<5" jsonlines einops draccus deepdiff accelerate termcolor "torchcodec==$torchcodec"
"$peers/lerobot/bin/pip" install --quiet --no-deps lerobot==0.4.4
mkdir -p "$peers/lerobot/ffmpeg"
for library in avutil avcodec avformat avdevice avfilter swscale swresample; do
    for path in "$site"/av.libs/lib$library-*.so.*; do
        version=${path##*.so.}
        ln -sf "$path" "$peers/lerobot/ffmpeg/lib$library.so.${version%%.*}"
    done
done

echo "lerobot and robomimic are in $peers: TRACEKIT_DEMO_PEERS=$peers $venv/bin/python -m pytest tests/interop/test_demo_peers.py"
