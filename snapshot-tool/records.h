/* records.h: which records a state file has, in which order, and what they are called. */
#ifndef MAYFLY_SNAPSHOT_RECORDS_H
#define MAYFLY_SNAPSHOT_RECORDS_H

#include "error.h"
#include "snapshot/state.h"

#define RECORD_NAME_ROOM 24

/*
 * records_check - are all records there that a loader asks for, in its order, and none besides?
 * r stands at the first; info is the first's contents. So each tag and index comes once, but for optional records that
 * this version does not know. 0, or -EINVAL with a sentence.
 */
int records_check(const struct state_reader *r, const struct state_info *info, struct error *err);

/* record_name - "VCPU 3", fit to show; returns name. record_what - what is in it, in words. */
const char *record_name(char name[RECORD_NAME_ROOM], uint32_t tag, uint32_t index);
const char *record_what(uint32_t tag, uint32_t index);

#endif
