"""The cache of one conversion."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from torch2trt_onnx.cache import Cache, take
from torch2trt_onnx.errors import ConversionError, ConversionWarning, OutputError
from torch2trt_onnx.exporters import Exported, source
from torch2trt_onnx.hashing import hash_model
from torch2trt_onnx.manifest import FILES
from torch2trt_onnx.result import Conversion, warn


class Shelf:
    """The cache of one conversion: of nothing where no folder is given.

    Args:
        folder: of the cache; None: nothing is found or kept.
        model: what is converted.
        key: `identity.key` with all but the source.
    """

    def __init__(self, folder: str | Path | None, model: object, key: Callable[..., str]) -> None:
        self.mark = source.fingerprint(model)
        self._cache = Cache(folder) if folder is not None else None
        self._name, self._key = "", key

    @property
    def sha256(self) -> str | None:
        """The hash of what was given; None for a module in memory."""
        return self.mark.sha256 if self.mark is not None else None

    def find(self, folder: Path, name: str, exported: Exported | None = None) -> Conversion | None:
        """What is known already, with files of its own in `folder`; it warns as it did when it was made. A module in memory is known by its
        exported graph only.

        Args:
            folder: of the conversion.
            name: what the model is called now; the one that the entry was made from may have been elsewhere.
            exported: once it is there.
        """
        if self._cache is None or (self.mark is None) is (exported is None):
            return None
        if exported is None:
            self._name = self._key(source_sha256=self.sha256)
        else:
            sha256, signature = hash_model(exported.model, folder), exported.signature.to_json()
            self._name = self._key(source_sha256=sha256, signature=signature, notes=exported.warnings, is_exported=True)
        try:
            entry = self._cache.get(self._name)
            if entry is None:
                return None
            found = Conversion.taken(take(entry, folder, may_link=True), folder, name)
        except (OSError, ConversionError):  # another process has just removed it
            for file in FILES:
                # What is written under these names from now on must not go into the entry, through a link.
                (folder / file).unlink(missing_ok=True)
            return None
        warn(found.report, stacklevel=4)
        return found

    def keep(self, conversion: Conversion) -> Conversion:
        """Put a new conversion there, unless the file of its model was changed meanwhile; and give it back."""
        if self._cache is not None and (self.mark is None or self.mark.still_holds):
            try:
                self._cache.put(self._name, conversion.save)
            except OutputError as error:
                warnings.warn(f"the conversion was not cached: {error}", ConversionWarning, stacklevel=3)
        return conversion
