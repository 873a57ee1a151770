#!/bin/sh
# Builds the codec with every warning an error, then runs its C tests under AddressSanitizer and UBSan. Needs gcc or clang,
# and the headers of a Python.
set -eu
cd "$(dirname "$0")"
cc=${CC:-gcc}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
warnings="-std=c11 -Wall -Wextra -Werror -Wpedantic -Wconversion -Wshadow"
for source in sse body wire keys; do
    $cc $warnings -O2 -c $source.c -o "$out/$source.o"
done
python=$(${PYTHON:-python3} -c 'import sysconfig; print(sysconfig.get_path("include"))')
for source in cpython semaphores handover; do
    $cc $warnings -O2 -isystem "$python" -c $source.c -o "$out/$source.o"
done
for test in test_sse test_wire test_keys; do
    $cc $warnings -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all \
        -DSSE_LIBFUZZER sse.c body.c wire.c keys.c fuzz_sse.c fuzz_body.c $test.c -o "$out/$test"
    "$out/$test"
done
