/* The keys of a batch: which there are, and where the record of each stands; and the lines of its journal, read into them.
 *
 * A table of 16 bytes a key, its digest and a value, open addressing in 256 parts that grow by a quarter each: never less than
 * seven tenths full once it has grown, so at most 24 bytes a key, and nothing ever stops for long. Unlike the rest of this
 * code it allocates; one table belongs to one thread at a time. There is no global state.
 *
 * A value is the record's offset << 2, with KEYS_FAILED if it is of a failure and KEYS_MET if the run has met the key.
 */
#ifndef WORKER_ADAPTERS_KEYS_H
#define WORKER_ADAPTERS_KEYS_H

#include <stddef.h>
#include <stdint.h>

/* [cdef begin] */
#define KEYS_DIGEST 10 /* bytes of a key's digest */
#define KEYS_FAILED 1
#define KEYS_MET 2
#define KEYS_NOWHERE 0x3fffffffffff /* the offset of a key that has no record */

#define KEYS_E_MEMORY -1
#define KEYS_E_ABSENT -2
#define KEYS_E_RANGE -3 /* an offset is KEYS_NOWHERE or more */

typedef struct keys_table keys_table;

keys_table *keys_new(void); /* NULL: no memory */
void keys_free(keys_table *t);

/* Keys; keys that have a record; keys whose record is of a failure. */
uint64_t keys_count(const keys_table *t);
uint64_t keys_recorded(const keys_table *t);
uint64_t keys_failed(const keys_table *t);

/* Its record stands there, which supersedes; whether it was met stays. 0, or an error. */
int keys_put(keys_table *t, const uint8_t *digest, uint64_t offset, int failed);

/* The value as it was (KEYS_NOWHERE << 2 for a new one), which has KEYS_MET from here on; or KEYS_E_MEMORY. */
int64_t keys_meet(keys_table *t, const uint8_t *digest);

/* The value, or KEYS_E_ABSENT. */
int64_t keys_get(const keys_table *t, const uint8_t *digest);

/* Takes KEYS_MET from all. */
void keys_forget(keys_table *t);

/* Whole lines of rows at the beginning of block, which stands at base in its file, are put into the table. Stops in front of
 * the first line that is anything else: not whole, another kind, damaged. Returns the bytes taken, or an error. */
int64_t keys_scan(keys_table *t, const uint8_t *block, size_t len, uint64_t base);
/* [cdef end] */

#endif
