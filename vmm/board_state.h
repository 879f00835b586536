/* board_state.h: everything the guest can see, into a state file and back. */
#ifndef MAYFLY_BOARD_STATE_H
#define MAYFLY_BOARD_STATE_H

#include "board.h"

/*
 * board_save - every record behind STATE_CONFIG; no vCPU is in the guest, no device has anything in flight
 * 0, or a negative errno with a sentence. Loop thread.
 */
int board_save(struct board *b, struct state_writer *w, struct error *err);

/*
 * board_restore - give a board, whose RAM is there and whose devices and vCPUs are just made, the state it had
 * Its devices are paused then. 0, or a negative errno with a sentence. Start-up thread.
 */
int board_restore(struct board *b, const struct board_restore *restore, struct error *err);

#endif
