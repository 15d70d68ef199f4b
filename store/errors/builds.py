"""What cannot be built.

StoreError
└── BuildRefused
    ├── BaseUnknown
    ├── ReleaseNotPinned
    ├── QuantizationRefused
    ├── ConversionFailed
    ├── BuildRecordMissing
    ├── BuildSourceGone
    ├── AdapterUnknown
    ├── AdapterInvalid
    ├── AdapterMismatch
    ├── DraftUnknown
    ├── DraftMismatch
    ├── FormatUnsupported
    ├── SourceMissing
    ├── SourceInvalid
    ├── SourceEscapes
    ├── TensorMissing
    └── WeightsNotFinite
"""

from pathlib import Path

from store.errors.base import StoreError


class BuildRefused(StoreError):
    """A model cannot be built from what the recipe names; nothing was changed."""


class BaseUnknown(BuildRefused):
    """FROM names nothing that can be found here."""

    def __init__(self, base: str) -> None:
        super().__init__(f"FROM {base[:100]}: neither a directory nor a stored model")
        self.base = base
        self.hint = (
            "FROM takes a directory with config.json and *.safetensors, a stored name (see: tilenode list), "
            "or a repository of a model hub (hf:owner/name)"
        )


class ReleaseNotPinned(BuildRefused):
    """A release never changes, so what it is built from must not change either."""

    def __init__(self, base: str) -> None:
        super().__init__(f"FROM {base[:100]}: a release needs a revision that never moves")
        self.base = base
        self.hint = f"pin it to the 40 hex characters of a commit: FROM {base.partition('@')[0][:100]}@COMMIT"


class QuantizationRefused(BuildRefused):
    """The weights cannot be packed as the recipe asks."""

    def __init__(self, quantization: str, reason: str) -> None:
        super().__init__(f"quantize {quantization}: {reason}")
        self.quantization = quantization
        self.reason = reason
        self.hint = "build it without --quantize, or from weights in 16 or 32 bits"


class ConversionFailed(BuildRefused):
    """The process that converts weights ended before it was done; nothing was kept."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"converting the weights: {reason}")
        self.reason = reason
        self.hint = "run it again; if it ends the same way, build without --quantize"


class BuildRecordMissing(BuildRefused):
    """The model does not say how it was built."""

    hint = "only models that tilenode built can be built again; compare two models with: tilenode diff A B"

    def __init__(self, name: str) -> None:
        super().__init__(f"model {name[:100]}: no build.json in it")
        self.name = name


class BuildSourceGone(BuildRefused):
    """What a model was built from is not here any more."""

    def __init__(self, name: str, source: str, hint: str) -> None:
        super().__init__(f"model {name[:100]}: its source {source[:200]} is not here")
        self.name = name
        self.source = source
        self.hint = hint


class AdapterUnknown(BuildRefused):
    """ADAPTER names nothing that is here."""

    hint = "ADAPTER names a directory with adapters.safetensors and adapter_config.json, or a stored model that has one"

    def __init__(self, adapter: str) -> None:
        super().__init__(f"ADAPTER {adapter[:100]!r}: neither a directory nor a stored model")
        self.adapter = adapter


class AdapterInvalid(BuildRefused):
    """An adapter that is not what mlx-lm writes."""

    hint = "an adapter is a directory with the adapters.safetensors and adapter_config.json that mlx_lm.lora wrote"

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"adapter {file[:100]}: {reason}")
        self.file = file
        self.reason = reason


class AdapterMismatch(BuildRefused):
    """An adapter that was trained for another model."""

    hint = "build FROM the model that the adapter was trained on"

    def __init__(self, tensor: str, reason: str) -> None:
        super().__init__(f"adapter tensor {tensor[:120]!r}: {reason}")
        self.tensor = tensor
        self.reason = reason


class DraftUnknown(BuildRefused):
    """DRAFT names nothing that is here."""

    hint = "DRAFT names a model as FROM does: a directory, a stored name, or a repository of a hub (hf:owner/name)"

    def __init__(self, draft: str) -> None:
        super().__init__(f"DRAFT {draft[:100]!r}: neither a directory nor a stored model")
        self.draft = draft


class DraftMismatch(BuildRefused):
    """A draft that does not speak in the model's tokens."""

    hint = "a draft is a smaller model of the same family, with the same tokenizer"

    def __init__(self, draft: str, reason: str) -> None:
        super().__init__(f"DRAFT {draft[:100]!r}: {reason}")
        self.draft = draft
        self.reason = reason


class FormatUnsupported(BuildRefused):
    """The weights are in a format that is not read here."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason
        self.hint = "use the model's *.safetensors files, and keep other weight formats out of the directory"


class SourceMissing(BuildRefused):
    """A file that the model needs is not in the directory."""

    def __init__(self, directory: Path, file: str) -> None:
        super().__init__(f"{directory}: {file} is missing")
        self.directory = directory
        self.file = file
        self.hint = "a model directory holds config.json, the tokenizer's files and *.safetensors"


class SourceInvalid(BuildRefused):
    """A file of the model cannot be read or is not what its name says."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


class SourceEscapes(BuildRefused):
    """A symbolic link in the model's directory leads out of it."""

    hint = "copy the file itself into the directory"

    def __init__(self, file: str) -> None:
        super().__init__(f"{file}: a symbolic link out of the model's directory")
        self.file = file


class TensorMissing(BuildRefused):
    """The weight index names a tensor or file that is not there."""

    hint = "copy or download the whole model again"

    def __init__(self, tensor: str, file: str) -> None:
        super().__init__(f"tensor {tensor[:100]!r}: the index places it in {file[:100]}, where it is not")
        self.tensor = tensor
        self.file = file


class WeightsNotFinite(BuildRefused):
    """A weight is NaN or infinite: the model would answer nonsense in silence."""

    hint = "this file is damaged or was badly converted; download or convert it again"

    def __init__(self, file: str, tensor: str) -> None:
        super().__init__(f"{file}: tensor {tensor[:100]!r} holds NaN or infinity")
        self.file = file
        self.tensor = tensor
