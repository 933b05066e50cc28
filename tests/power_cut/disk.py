"""A disk that remembers what was synced, and can be written out as a power cut may leave it.

What is promised by POSIX and kept by common file systems, and not more: a file's bytes are there after a
sync of the file, a name is there after a sync of its directory. Of bytes that were not synced any 512
may be there; of the changes to a directory any first part.
"""

import pathlib
from collections import namedtuple

SECTOR = 512

Promised = namedtuple("Promised", "events media tokens")


class File:
    """Changes to one file in order: (begin, end, offset, data) or (begin, end, None, size)."""

    def __init__(self):
        self.changes = []
        self.size = 0
        # (end of the sync, everything that had ended before this is durable then)
        self.syncs = []


class Disk:
    def __init__(self, root, operations):
        self.root = str(root)
        self.operations = operations
        # Changes of names in order: (number of the operation, begin, end, kind, path, other, file)
        self.names = []
        self.directory_syncs = []
        self.replay()

    def replay(self):
        """Goes through all operations once, and notes them with the file or directory that they change."""
        files = {}
        for operation in self.operations:
            path, other = operation.path, operation.other
            if operation.promises:
                continue
            if operation.name == "openat":
                if path not in files:
                    files[path] = File()
                    self.note_name("create", operation, files[path])
                if "O_TRUNC" in operation.flags:
                    files[path].changes.append((operation.begin, operation.end, None, 0))
                    files[path].size = 0
            elif operation.name == "mkdir":
                self.note_name("mkdir", operation, None)
            elif operation.name == "link":
                files[other] = files[path]
                self.note_name("link", operation, files[path])
            elif operation.name == "rename":
                files[other] = files.pop(path)
                self.note_name("rename", operation, files[other])
            elif operation.name in ("unlink", "rmdir"):
                files.pop(path, None)
                self.note_name("unlink", operation, None)
            elif operation.name in ("fsync", "fdatasync"):
                if path in files:
                    files[path].syncs.append((operation.end, operation.begin))
                else:
                    self.directory_syncs.append((operation.end, operation.begin, path))
            elif path in files:
                self.change_file(files[path], operation)

    def note_name(self, kind, operation, file):
        self.names.append((operation.begin, operation.end, kind, operation.path, operation.other, file))

    def change_file(self, file, operation):
        if operation.name == "ftruncate":
            file.changes.append((operation.begin, operation.end, None, operation.size))
            file.size = operation.size
            return
        offset = file.size if operation.offset < 0 else operation.offset
        file.changes.append((operation.begin, operation.end, offset, operation.data))
        file.size = max(file.size, offset + len(operation.data))

    def write_as_of(self, count, keep, dice):
        """Writes what `count` operations leave, of the unsynced about the part `keep`; returns what was promised."""
        now = self.operations[count - 1].end if count else -1
        promised = Promised(set(), set(), set())
        for operation in self.operations[:count]:
            for kind, value in operation.promises:
                getattr(promised, kind).add(value)
        names, directories = self.list_names(now, keep, dice)
        for path in sorted(directories):
            pathlib.Path(path).mkdir(parents=True, exist_ok=True)
        for path, file in names.items():
            place = pathlib.Path(path)
            if str(place.parent) in directories:
                place.write_bytes(content_of(file, now, keep, dice))
        return promised

    def list_names(self, now, keep, dice):
        synced, lost = {}, set()
        for end, begin, path in self.directory_syncs:
            if end <= now:
                synced[path] = max(synced.get(path, -1), begin)
        names, directories = {}, {str(pathlib.Path(self.root).parent)}
        for begin, end, kind, path, other, file in self.names:
            if begin > now:
                continue
            parents = {str(pathlib.Path(name).parent) for name in (path, other) if name}
            is_durable = any(end < synced.get(parent, -1) for parent in parents)
            # Once a change of a directory is lost, so are the later ones.
            if not is_durable and (lost & parents or dice.random() >= keep):
                lost |= parents
                continue
            if kind == "mkdir":
                directories.add(path)
            elif kind == "unlink":
                names.pop(path, None)
            else:
                names[other if kind in ("link", "rename") else path] = file
                if kind == "rename":
                    names.pop(path, None)
        # What lies in a directory that is not there is not there.
        gone = [path for path in directories if not parents_of(path, self.root) <= directories]
        return names, directories - set(gone)


def parents_of(path, root):
    """The directories between the root's own directory and the path."""
    top = str(pathlib.Path(root).parent)
    return {str(parent) for parent in pathlib.Path(path).parents if str(parent).startswith(top)}


def content_of(file, now, keep, dice):
    durable = max((begin for end, begin in file.syncs if end <= now), default=-1)
    content = bytearray()
    for begin, end, offset, data in file.changes:
        if begin > now:
            break
        is_durable = end < durable
        if offset is None:
            if is_durable or dice.random() < keep:
                resize(content, data)
            continue
        for start, part in [(offset, data)] if is_durable else sectors(offset, data):
            if is_durable or dice.random() < keep:
                if len(content) < start + len(part):
                    resize(content, start + len(part))
                content[start : start + len(part)] = part
    return bytes(content)


def sectors(offset, data):
    """The pieces of a write that reach the disk independently of one another."""
    at = 0
    while at < len(data):
        length = min(SECTOR - (offset + at) % SECTOR, len(data) - at)
        yield offset + at, data[at : at + length]
        at += length


def resize(content, size):
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))
