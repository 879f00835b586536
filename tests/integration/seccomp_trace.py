"""Which rules of the policies the system calls of traced runs needed, and which calls no rule allows."""

import re
from collections import defaultdict
from pathlib import Path

from harness import artifact
from seccomp_model import SELF, THREADS, numbers, programs, rules

CALL = re.compile(r"(\w+)\((.*?)(?:\)? *= |\) |$)")
MAKES = re.compile(r"(clone|fork|vfork)\((.*?)\) *= (0x[0-9a-f]+|\d+)$")
CLONE_THREAD = 0x10000
INSTALL = re.compile(r"seccomp\(SECCOMP_SET_MODE_FILTER, 0, \{len=(\d+).*= 0$")


def arguments(text):
    found = [int(word, 0) & 0xFFFFFFFFFFFFFFFF for word in re.findall(r"0x[0-9a-f]+|\b\d+\b", text)]
    return found + [0] * (6 - len(found))


class Coverage:
    """Goes through the files of `strace -ff -e raw=!seccomp`, thread by thread, with the filters that the thread had at that moment."""

    def __init__(self, filters="seccomp/release.filter"):
        lengths = {len(program): thread for thread, program in programs(artifact(filters)).items()}
        assert len(lengths) == len(THREADS), "two programs of the same length cannot be told apart"
        self.thread_of = lengths
        self.rules = rules()
        self.by_call = defaultdict(list)
        for rule in self.rules:
            self.by_call[rule.thread, rule.call].append(rule)
        self.used = defaultdict(set)  # rule → runs that needed it
        self.refused = []
        self.known = {}

    def _look(self, thread, name, text, self_id, where):
        key = thread, name, text, self_id
        if key not in self.known:  # most calls come again and again
            number, args = numbers().get(name), arguments(text)
            self.known[key] = [rule for rule in self.by_call[thread, number] if rule.matches(number, args, self_id)]
            if not self.known[key]:
                self.refused.append(f"{where}: {thread}: {name}({text})")
        for rule in self.known[key]:
            self.used[rule].add(where)

    def add(self, folder):
        """Each file is a thread's. It begins with the filters that the thread had which made it, and none if nobody traced did."""
        paths = sorted(Path(folder).iterdir())
        texts = {(path.stem, int(path.suffix[1:])): path.read_text(errors="replace").splitlines() for path in paths}
        born = {}  # (run, thread) → process id, filters
        for (run, task), lines in texts.items():
            if any(line.startswith("execve(") for line in lines):
                born[run, task] = task, []
        left = list(texts)
        while left:
            ready = [key for key in left if key in born]
            if not ready:  # whose maker's line was cut short
                ready = left[:1]
                born[ready[0]] = SELF, ["startup"]
            for run, task in ready:
                self._add_thread(run, texts[run, task], *born[run, task], born)
            left = [key for key in left if key not in ready]

    def _add_thread(self, run, lines, process, filters, born):
        installed = list(filters)
        for line in lines:
            call, install, made = CALL.match(line), INSTALL.match(line), MAKES.match(line)
            if made:
                task = int(made[3], 0)
                thread = made[1] == "clone" and arguments(made[2])[0] & CLONE_THREAD
                born[run, task] = (process if thread else task), list(installed)
            if not call:
                continue
            text = call[2].replace("SECCOMP_SET_MODE_FILTER", "0x1")  # without a result where the process ended meanwhile
            for thread in installed:
                self._look(thread, call[1], text, process, run)
            if install:
                installed.append(self.thread_of[int(install[1])])

    def unused(self):
        return [rule for rule in self.rules if rule not in self.used]
