"""How the weights of a model are packed when it is built (specs/0009)."""

from enum import StrEnum


class Quantization(StrEnum):
    """What a build does to the weights: nothing, a cast to 16 bits, or packing into 8 or 4 bits a weight."""

    NONE = "none"
    FP16 = "fp16"
    INT8 = "int8"
    INT4 = "int4"
