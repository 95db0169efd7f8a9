"""Files are written whole or not at all; where that fails, one line says why."""
import contextlib
import json
import os
import shutil
from pathlib import Path

from config import UserError


def write_error(path, error):
    """Returns the UserError of a file that cannot be written."""
    place = Path(path).absolute().parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**20
    return UserError(f"{path}: cannot be written ({error.strerror or error}; {free:.1f} MiB are "
                     "free on its disk). Make room, or name another --out_dir=; what was saved "
                     "before is kept")


@contextlib.contextmanager
def whole_file(path):
    """Yields a binary file that takes the place of `path` once all of it is on the disk.

    Where that fails, the old file stays and nothing else is left. The folder is made again if
    somebody deleted it.
    """
    temporary = Path(f"{path}.tmp")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError):    # torch.save makes one of a full disk
            error = error.__context__
        if not isinstance(error, OSError):
            raise
        raise write_error(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(path, text):
    with whole_file(path) as file:
        file.write(text.encode("utf-8", "replace"))


def write_json(path, value):
    write_text(path, json.dumps(value))


def append_line(path, text):
    """Adds a whole line to a file, or nothing. A line that was cut short before stays alone."""
    line = text.encode("utf-8", "replace") + b"\n"
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            if file.read(1) not in (b"", b"\n"):
                line = b"\n" + line
            try:
                while line:                    # a full disk may take a part of it first
                    line = line[file.write(line):]
            except OSError:
                file.truncate(end)
                raise
    except OSError as error:
        raise write_error(path, error) from None
