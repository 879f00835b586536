/* frames.h: Ethernet frames made from few bytes of input. */
#ifndef MAYFLY_FUZZ_FRAMES_H
#define MAYFLY_FUZZ_FRAMES_H

#include "fuzz.h"

#define FRAMES_SERVICE_IP 0xa9fea9feu /* the metadata service's */
#define FRAMES_GUEST_IP   0x0a000002u

extern const uint8_t frames_guest_mac[6];

/* frames_put - an Ethernet frame's headers, at most 128 bytes; frames_put_vnet_header - what goes before. Where they
 * end. */
uint8_t *frames_put(struct input *in, uint8_t *at);
uint8_t *frames_put_vnet_header(struct input *in, uint8_t *at);

#endif
