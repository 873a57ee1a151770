#!/bin/sh
# run_fuzz.sh [seconds] [seed]: libFuzzer where clang has it, else the target's own seeded mutations built with gcc.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
seed=${2:-1}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
flags="-std=c11 -Wall -Wextra -Werror -g -O2 -fno-omit-frame-pointer -fno-sanitize-recover=all"
if command -v clang >/dev/null 2>&1 &&
    clang $flags -fsanitize=fuzzer,address,undefined -DSSE_LIBFUZZER sse.c body.c fuzz_sse.c fuzz_body.c -o "$out/fuzz_sse" 2>/dev/null; then
    mkdir "$out/corpus"
    "$out/fuzz_sse" -max_total_time="$seconds" -seed="$seed" -max_len=16384 -timeout=10 -print_final_stats=1 "$out/corpus"
else
    "${CC:-gcc}" $flags -fsanitize=address,undefined sse.c body.c fuzz_sse.c fuzz_body.c -o "$out/fuzz_sse"
    "$out/fuzz_sse" "$seconds" "$seed"
fi
