"""The setting of heads with softmax attention over all positions: the kernel that computes it."""

from dataclasses import dataclass, replace
from typing import TypeVar

from nonlocal_jax.config import schema
from nonlocal_jax.ops.attention.softmax import Implementation

Options = TypeVar("Options", bound="AttentionOptions")


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(schema.HeadOptions):
    """Settings of heads with softmax attention."""

    implementation: Implementation = "auto"
    """Kernel of softmax attention. auto: the fastest that the platform has, see
    ops/attention/softmax.py."""

    def for_platform(self: Options, platform: str, dtype: str) -> Options:
        """A TPU's kernel must be named where the program is compiled on another machine."""
        if self.implementation != "auto" or platform != "tpu":
            return self
        return replace(self, implementation="pallas" if dtype == "bfloat16" else "chunked")
