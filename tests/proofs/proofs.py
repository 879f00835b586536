"""What is proved with which options, and the mistakes that each proof must find."""

PROOFS = {
    "queue": {
        "source": "virtio/queue.c",
        "with": ["vmm/guest_memory.c"],
        "options": ["-eva-split-limit", "300", "-eva-split-return-function", "pending:full,rearm:full"],
    },
    "guest_memory": {
        "source": "vmm/guest_memory.c",
        # mmap in the driver yields plain addresses, all of them in user space.
        # Comparing a pointer with MAP_FAILED, which points nowhere, is what POSIX asks for.
        # Precision 1: at 3, EVA counts the iterations of loops, and no state of a loop is ever the same as an earlier one.
        "precision": 1,
        "options": ["-absolute-valid-range", "0x1000-0x7fffffffffff", "-eva-slevel", "100",
                    "-eva-split-return-function", "pread:full", "-eva-warn-undefined-pointer-comparison", "none"],
    },
    "rate_limiter": {
        "source": "vmm/rate_limiter.c",
        "machdep": "gcc_x86_64_int128",
    },
    "bus": {
        "source": "vmm/bus.c",
        # A search that finds a device knows more than one that does not: keep them apart until the caller has looked.
        "options": ["-eva-partition-history", "1", "-eva-split-return-function", "find:0"],
    },
}

# What is wrong, the line as it is, the line as it must not be.
MISTAKES = {
    "queue": [
        ("more buffers than the caller has room for", "if (n >= chain->iov_max)", "if (n > chain->iov_max)"),
        ("a ring outside RAM is read all the same", "	if (!p)\n		return -EFAULT;\n	*out =", "	*out ="),
        ("an avail ring at an odd address passes", "vq->avail_gpa % VRING_AVAIL_ALIGN_SIZE ||", ""),
        ("a queue of any size passes", "size > vq->max_size || size > VIRTQUEUE_MAX_SIZE ||", ""),
    ],
    "guest_memory": [
        ("a range may end beyond its region", "return len <= r->size - offset ? r->hva + offset : NULL;", "return r->hva + offset;"),
        ("a read trusts that the address is in RAM", "	if (!src)\n		return -EFAULT;\n", ""),
        ("the mapping forgets what alignment takes", "gm->reservation_size = size + slack;", "gm->reservation_size = size;"),
        ("a file's pages are mapped past the range", "body = (len - head) / page * page;", "body = (len - head + page - 1) / page * page;"),
        ("a file is mapped off a page", "head = -gpa % page;", "head = 0;"),
    ],
    "rate_limiter": [
        ("a bucket of size 0 limits, too", "return b->cfg.size && b->cfg.refill_time;", "return b->cfg.refill_time;"),
        ("a bucket that never refills limits, too", "return b->cfg.size && b->cfg.refill_time;", "return b->cfg.size;"),
        ("a product passes 128 bits", "if (per_token > MAX_WAIT_NS && tokens > UINT32_MAX)", "if (per_token > UINT64_MAX && !tokens)"),
        ("a wait without bound", "return ready - now_ns < MAX_WAIT_NS ? ready - now_ns : MAX_WAIT_NS;", "return ready - now_ns;"),
        ("a state file gets a debt without bound", "at_most(b->last_ns - now_ns, MAX_WAIT_NS)", "b->last_ns - now_ns"),
    ],
    "bus": [
        ("a full table takes one more device", "if (bus->nr == BUS_MAX_DEVICES)", "if (bus->nr > BUS_MAX_DEVICES)"),
        ("an access may straddle a device's end", "return len <= d->size - *offset ? d : NULL;", "return d;"),
        ("the search looks one entry too far", "low = 0, high = bus->nr;", "low = 0, high = bus->nr + 1;"),
    ],
}
