#!/bin/sh
# Builds the codec with every warning an error, then runs its C tests under AddressSanitizer and UBSan. Needs gcc or clang.
set -eu
cd "$(dirname "$0")"
cc=${CC:-gcc}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
warnings="-std=c11 -Wall -Wextra -Werror -Wpedantic -Wconversion -Wshadow"
$cc $warnings -O2 -c sse.c -o "$out/sse.o"
$cc $warnings -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all \
    -DSSE_LIBFUZZER sse.c fuzz_sse.c test_sse.c -o "$out/test_sse"
"$out/test_sse"
