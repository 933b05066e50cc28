"""What strace noted, as operations on the files of one directory and promises made to clients."""

import re
from dataclasses import dataclass, field

# Everything by which a server changes files, makes them durable, or answers.
FILES = ["openat", "mkdir", "mkdirat", "link", "linkat", "rename", "renameat", "renameat2", "unlink", "unlinkat"]
WRITES = ["write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate", "copy_file_range"]
SYNCS = ["fsync", "fdatasync", "sync_file_range"]
SYSCALLS = [*FILES, *WRITES, *SYNCS, "sendto", "sendmsg"]

LINE = re.compile(r"^(\d+) +(.*)$", re.S)
RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$", re.S)
CALL = re.compile(r"^(\w+)\((.*)\) += (-?\d+|\?)(.*)$", re.S)
UNFINISHED = " <unfinished ...>"
DESCRIPTOR = re.compile(r"^(\d+)<([^>]*)>(\(deleted\))?")
PATH = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
PROMISES = [
    ("events", re.compile(rb'"event_id":"(\$[^"]+)"')),
    ("media", re.compile(rb'"content_uri":"(mxc://[^"]+)"')),
    ("tokens", re.compile(rb'"access_token":"([^"]+)"')),
]


@dataclass
class Operation:
    """One call: `begin` and `end` count the lines of the trace."""

    name: str
    begin: int
    end: int
    path: str = ""
    other: str = ""
    offset: int = -1
    data: bytes = b""
    size: int = 0
    flags: str = ""
    # What clients were told: (kind, value).
    promises: list = field(default_factory=list)


def read_trace(file, directory):
    """The operations below `directory` and the answers with promises, in the order in which they ended."""
    pending, operations = {}, []
    with open(file, encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines):
            match = LINE.match(line.rstrip("\n"))
            if not match:
                continue
            process, text = match.groups()
            if text.endswith(UNFINISHED):
                pending[process] = (number, text.removesuffix(UNFINISHED))
                continue
            begin = number
            if resumed := RESUMED.match(text):
                begin, start = pending.pop(process, (number, ""))
                text = start + resumed.group(2)
            operation = read_call(text, begin, number, str(directory))
            if operation:
                operations.append(operation)
    return operations


def read_call(text, begin, end, directory):
    match = CALL.match(text)
    if not match:
        return None
    name, arguments, result, _ = match.groups()
    if result == "?" or int(result) < 0:
        return None
    descriptor = DESCRIPTOR.match(arguments)
    path = unhex(descriptor.group(2)).decode() if descriptor else ""
    if name in ("sendto", "sendmsg") or (name in ("write", "writev") and path.startswith(("socket:", "TCP:"))):
        return read_answer(name, arguments, begin, end)
    if name in FILES:
        return read_file_call(name, arguments, begin, end, directory)
    if descriptor is None or descriptor.group(3) or not path.startswith(directory):
        return None
    operation = Operation(name, begin, end, path)
    if name in ("write", "pwrite64", "writev", "pwritev"):
        data = b"".join(unhex(part) for part in PATH.findall(arguments))
        operation.data = data[: int(result)]
        if name.startswith("p"):
            operation.offset = int(arguments.rsplit(", ", 1)[1])
    elif name == "ftruncate":
        operation.size = int(arguments.rsplit(", ", 1)[1])
    elif name not in SYNCS:
        raise ValueError(f"the disk does not know {text[:200]}")
    return operation


def read_answer(name, arguments, begin, end):
    data = b"".join(unhex(part) for part in PATH.findall(arguments))
    if not data.startswith(b"HTTP/1.1 200"):
        return None
    found = [(kind, value.decode()) for kind, pattern in PROMISES for value in pattern.findall(data)]
    return Operation(name, begin, end, promises=found) if found else None


def read_file_call(name, arguments, begin, end, directory):
    paths = [unhex(path).decode() for path in PATH.findall(arguments)]
    if not paths[0].startswith(directory):
        return None
    if name == "openat":
        flags = arguments.rsplit('"', 1)[1]
        if "O_CREAT" not in flags and "O_TRUNC" not in flags:
            return None
        return Operation(name, begin, end, paths[0], flags=flags)
    return Operation(name.replace("at2", "").removesuffix("at"), begin, end, paths[0], paths[-1])


def unhex(text):
    return bytes.fromhex(text.replace("\\x", ""))


