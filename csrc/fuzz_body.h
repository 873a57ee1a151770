#ifndef WORKER_ADAPTERS_FUZZ_BODY_H
#define WORKER_ADAPTERS_FUZZ_BODY_H

#include <stddef.h>
#include <stdint.h>

/* Aborts unless the bytes, as a body in each framing, mean the same however they are cut. */
void body_tells_the_same(const uint8_t *bytes, size_t size, uint64_t seed);

#endif
