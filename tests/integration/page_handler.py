"""A page-fault handler as Firecracker's users write them: brings the pages of a snapshot's memory file when they are first touched."""

import array
import ctypes
import fcntl
import json
import mmap
import os
import select
import socket
import struct
import threading

# linux/userfaultfd.h
UFFDIO_COPY = 0xC028AA03
EVENT_PAGEFAULT = 0x12
MESSAGE = struct.Struct("<B7xQQ8x")  # event, flags, address
EEXIST = 17


class PageHandler:
    """Listens at path, for one microVM. block: bytes that each fault brings."""

    def __init__(self, path, memory, block=4096):
        self.path, self.block = path, block
        self.regions, self.faults = [], 0
        self.credentials = None
        with open(memory, "rb") as file:
            self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.woken, self.wake = os.pipe()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        """Until dies() or the microVM is gone."""
        with self.listener:
            peer, _ = self.listener.accept()
        text, control, _, _ = peer.recvmsg(4096, socket.CMSG_SPACE(4))
        uffd = array.array("i", control[0][2])[0]
        self.credentials = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        self.regions = json.loads(text)
        poll = select.poll()
        for fd in (uffd, self.woken, peer.fileno()):
            poll.register(fd, select.POLLIN)
        while not {fd for fd, _ in poll.poll()} & {self.woken, peer.fileno()}:
            self.answer(uffd)
        os.close(uffd)
        peer.close()

    def answer(self, uffd):
        try:
            event, _, address = MESSAGE.unpack(os.read(uffd, MESSAGE.size))
        except BlockingIOError:
            return
        assert event == EVENT_PAGEFAULT
        region = next(r for r in self.regions if r["base_host_virt_addr"] <= address < r["base_host_virt_addr"] + r["size"])
        start = (address - region["base_host_virt_addr"]) // self.block * self.block
        length = min(self.block, region["size"] - start)
        self.faults += 1
        try:
            self.copy(uffd, region, start, length)
        except OSError as error:
            if error.errno != EEXIST:
                raise
            # A part of the block is there already: the page that is asked for is not.
            self.copy(uffd, region, address - region["base_host_virt_addr"] & -4096, 4096)

    def copy(self, uffd, region, start, length):
        fcntl.ioctl(uffd, UFFDIO_COPY, struct.pack("<5Q", region["base_host_virt_addr"] + start, self.address + region["offset"] + start, length, 0, 0))

    def dies(self):
        """Without a word, as when it is killed."""
        os.write(self.wake, b"x")
        self.thread.join(10)
        assert not self.thread.is_alive()
