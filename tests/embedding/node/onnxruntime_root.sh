#!/usr/bin/env bash
# Puts together a folder of ONNX Runtime for C++, FOLDER/include and FOLDER/lib, from what package registries have: the headers of
# Debian's libonnxruntime-dev (of a release that has it, if not of this one) and the library of npm's onnxruntime-node,
# which runs programs that were compiled for any version before it.
#
#     onnxruntime_root.sh FOLDER NODE_MODULES
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
library=$(ls "$2"/onnxruntime-node/bin/napi-v*/linux/x64/libonnxruntime.so.1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/parts" "$work/lists" "$work/cache"
# This machine's own mirror, at the release that has the package; nothing of the machine is changed.
awk 'BEGIN { RS = ""; ORS = "\n\n" } !/security/' /etc/apt/sources.list.d/debian.sources |
  sed 's/^Suites:.*/Suites: trixie/' > "$work/parts/debian.sources"
apt=(-qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/parts" -o "Dir::State::lists=$work/lists"
     -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=)
apt-get "${apt[@]}" update
(cd "$work" && apt-get "${apt[@]}" download libonnxruntime-dev && dpkg -x libonnxruntime-dev_*.deb unpacked)
mkdir -p "$folder/lib" "$folder/include"
cp "$(readlink -f "$library")" "$folder/lib/libonnxruntime.so.1"
ln -sf libonnxruntime.so.1 "$folder/lib/libonnxruntime.so"
cp -r "$work"/unpacked/usr/include/onnxruntime/. "$folder/include/"
