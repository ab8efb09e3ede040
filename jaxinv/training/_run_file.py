"""The file from which a long run goes on."""

import json
import os
import time
from typing import Any

import numpy as np
from jaxtyping import PyTree

from .. import io

# Writing costs at most this share of the time.
_SHARE = 0.05


class RunFile:
    """The file of a long run of any kind, with the settings that decide whose it is.

    - `maker`: the function that makes such files.
    """

    def __init__(self, path: str | os.PathLike, settings: dict[str, str], maker: str):
        io.check_writable(path)
        self.path, self.settings, self.maker = os.fspath(path), settings, maker
        self.cost, self.written = 0.0, -np.inf

    def due(self) -> bool:
        """Whether it was written so long ago that writing would take no noticeable share of the time."""
        return time.perf_counter() - self.written >= self.cost / _SHARE

    def write(self, contents: PyTree, progress: dict[str, Any]) -> None:
        """Write what a run has done; `progress` is what reading it takes."""
        began = time.perf_counter()
        metadata = {"settings": json.dumps(self.settings), "progress": json.dumps(progress)}
        io.save(self.path, contents, metadata=metadata)
        self.written = time.perf_counter()
        self.cost = self.written - began

    def read_progress(self) -> dict[str, Any] | None:
        """The progress that was written, if there is a file.

        **Raises:** `ValueError` that says what differs if the file is of another run.
        """
        if not os.path.exists(self.path):
            return None
        metadata = io.read_metadata(self.path)
        if "settings" not in metadata or "progress" not in metadata:
            raise ValueError(f"{self.path} is not a checkpoint of `{self.maker}`. Delete it, or give another path.")
        theirs = json.loads(metadata["settings"])
        for name in dict.fromkeys([*self.settings, *theirs]):
            if theirs.get(name) != self.settings.get(name):
                raise ValueError(
                    f"The checkpoint {self.path} is of another run: its {name} is {theirs.get(name)}, not "
                    f"{self.settings.get(name)}. Delete it, or give another path."
                )
        return json.loads(metadata["progress"])
